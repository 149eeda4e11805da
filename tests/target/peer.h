/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_TARGET_PEER_H
#define TEST_TARGET_PEER_H

/* A raw initiator for tests: PDUs are built byte by byte, so that wrong ones can be sent too. Blocking sockets; every wait has a
 * deadline. It shares no code with the target but byte order, CRC32C and the numbers in pdu.h. */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pdu.h"

#define TARGET_IQN "iqn.2026-01.test.kedge:wire"
#define INITIATOR_IQN "iqn.2026-01.test.kedge:initiator"

/* LUN 1 of every target here: an odd number of blocks, with a hole. LUN 2 is small. */
#define DISK1_BYTES (8ull * 1024 * 1024 + 3 * 512)
#define DISK1_HOLE_START (2ull * 1024 * 1024)
#define DISK1_HOLE_END (3ull * 1024 * 1024)
#define DISK2_BYTES (64ull * 1024)

/* ---- the program under test ---- */

extern const char *wire_ktarget; /* its path, for those tests that get it as an argument */

struct target {
	pid_t pid;
	int port;
	int out_fd;
	char dir[64];
};

/* Start the ktarget at path with two LUNs and more arguments (NULL at the end). Aborts the test program when it does not listen. */
void target_start(struct target *t, const char *path, ...) __attribute__((sentinel));
/* SIGTERM; the exit status must be 0 and come in time. Returns false otherwise. */
bool target_stop(struct target *t);
bool target_is_alive(struct target *t);
long target_rss_kib(const struct target *t);
/* The byte that LUN lun holds at at_bytes. */
uint8_t disk_byte(unsigned lun, uint64_t at_bytes);

/* ---- one connection ---- */

#define PEER_DATA_MAX (1u << 20)
#define PEER_TEXT_MAX 20000

struct peer {
	int fd;
	int wait_ms;              /* for one PDU */
	uint32_t cmd_sn, exp_stat_sn, itt;
	uint32_t exp_cmd_sn, max_cmd_sn; /* what the target said last */
	bool has_stat_sn;
	bool has_header_digest, has_data_digest;
	uint8_t isid[6];
	uint16_t tsih;
	/* the PDU received last */
	uint8_t bhs[BHS_BYTES];
	uint32_t nr_data;
	uint8_t *data;            /* NUL after the end */
};

/* from: source address on loopback, or NULL. 0 or -errno; peer_close is due after either. */
int peer_open(struct peer *p, const struct target *t, const char *from);
void peer_close(struct peer *p);

/* Send a PDU: lengths, ExpStatSN, digests and padding are added. 0 or -errno. */
int peer_send(struct peer *p, uint8_t *bhs, const void *data, uint32_t nr_bytes);
int peer_send_raw(struct peer *p, const void *bytes, size_t nr_bytes);
/* Encode as peer_send does, into out; bytes. */
size_t peer_encode(struct peer *p, uint8_t *bhs, const void *data, uint32_t nr_bytes, uint8_t *out);
/*
 * The next PDU. 0; -ETIMEDOUT; -ECONNRESET when the target closed; -EBADMSG for a wrong digest or padding; -EPROTO for a StatSN that is not the
 * next one, or a MaxCmdSN behind ExpCmdSN - 1.
 */
int peer_recv(struct peer *p);
/* Nothing more is sent and the connection ends in wait_ms. */
bool peer_is_closed_by_target(struct peer *p, int wait_ms);

/* "k=v" strings with NUL ends into out; NULL ends the list. */
size_t text_make(char *out, ...) __attribute__((sentinel));
/* Value of a key in the text received last, or NULL. */
const char *peer_value(const struct peer *p, const char *key);

/* One login request and its answer: 0 (status 0), the status as a positive number, or an error of peer_recv. */
int peer_login_step(struct peer *p, uint8_t flags, const char *text, size_t nr_bytes);
#define LOGIN_T 0x80
#define LOGIN_C 0x40
#define LOGIN_STAGES(csg, nsg) ((uint8_t)((csg) << 2 | (nsg)))
/* A whole login without CHAP in one request; more: further "k=v" or NULL. As peer_login_step. */
int peer_login(struct peer *p, const char *more1, const char *more2, const char *more3);

/* A SCSI command. lun: as a number. Returns its ITT. */
uint32_t peer_scsi(struct peer *p, uint32_t lun, const uint8_t cdb[16], uint32_t expected_bytes);
uint32_t peer_read10(struct peer *p, uint32_t lun, uint32_t lba, uint16_t nr_blocks, uint32_t expected_bytes);

struct outcome {
	int error;          /* of peer_recv */
	uint8_t status;
	uint32_t sense;     /* key << 16 | asc << 8 | ascq */
	bool is_over, is_under;
	uint32_t residual, nr_data_in;
	uint8_t *data;      /* of out_max bytes, given by the caller */
	size_t out_max, nr_bytes;
};
/* Take PDUs until the status of itt is there. Data-In must be in order. */
void peer_finish(struct peer *p, uint32_t itt, struct outcome *o);
/* peer_scsi and peer_finish, swallowing one power-on unit attention. */
void peer_command(struct peer *p, uint32_t lun, const uint8_t cdb[16], uint32_t expected_bytes, struct outcome *o);
/* Is this connection still served? A NOP-Out ping. */
bool peer_ping(struct peer *p);

#endif
