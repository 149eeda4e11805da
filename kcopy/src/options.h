/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_OPTIONS_H
#define KCOPY_OPTIONS_H

/* The command line of the tool. */

#include <stdbool.h>
#include <stdint.h>

#include "kcopy/kcopy.h"

struct kcopy_options {
	const char *source, *destination;
	const char *map_path, *chap_path, *initiator_iqn, *serial;
	enum kcopy_transit_mode transit;
	unsigned nr_connections; /* 0: the default */
	uint64_t rate_bps;       /* 0: no limit */
	int progress_fd;         /* -1: none */
	enum kcopy_holes holes;
	enum kcopy_data data;
	bool can_create, is_json, must_verify;
};

/* 0: go on; else the program ends with *ret_exit (help and version: 0, wrong usage: 2, said on stderr). */
int kcopy_options_parse(int argc, char **argv, struct kcopy_options *ret_options, int *ret_exit);

#endif
