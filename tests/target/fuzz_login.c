/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The target's decoders on any bytes: login PDUs with and without CHAP, CDBs, binary values. A libFuzzer program; with
 * KEDGE_FUZZ_REPLAY a plain one that feeds the files of a directory.
 * Owns. Nothing. Locks. None.
 *
 * An input is a mode, then what the mode wants:
 *   'n' 'c' 'm'   login without, with, with mutual CHAP: PDUs of flags (1 byte), length (2 bytes, big-endian), text
 *   's'           CDBs, 16 bytes each
 *   'b'           one binary value
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "login.h"
#include "scsi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes);

static void insist(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_login: broken: %s\n", what);
	abort();
}

static void feed_login(const struct tgt_policy *policy, const uint8_t *data, size_t nr_bytes)
{
	struct tgt_login *l = malloc(sizeof *l); /* on the heap: a write behind it shows */
	uint8_t bhs[BHS_BYTES] = {OP_LOGIN | OP_IMMEDIATE}, out[BHS_BYTES];
	int r = 0;

	insist(l, "memory");
	tgt_login_init(l, policy);
	l->tsih = 1;
	while (r == 0 && nr_bytes >= 3) {
		uint32_t n = kedge_get_be16(data + 1);
		bhs[1] = data[0];
		data += 3;
		nr_bytes -= 3;
		n = n < nr_bytes ? n : (uint32_t)nr_bytes;
		char *text = malloc(n ? n : 1);
		insist(text, "memory");
		memcpy(text, data, n);
		kedge_put_be24(bhs + 5, n);
		r = tgt_login_take(l, bhs, text, n, out);
		free(text);
		data += n;
		nr_bytes -= n;
		insist(l->reply.nr_bytes <= TGT_TEXT_MAX, "the reply is bounded");
		insist(pdu_data_bytes(out) == l->reply.nr_bytes, "the header says the reply's length");
		insist(l->nr_pdus <= TGT_LOGIN_PDUS_MAX || r < 0, "8 PDUs at most");
		insist((kedge_get_be16(out + 36) != 0) == (r < 0), "a status when it ends, and only then");
		insist(memchr(l->initiator, 0, sizeof l->initiator), "the name ends");
	}
	/* nobody can guess the answer to a random challenge */
	insist(r != 1 || !policy->chap, "no session without the secret");
	insist(r != 1 || l->has_names, "no session without names");
	free(l);
}

static void feed_scsi(const uint8_t *data, size_t nr_bytes)
{
	struct tgt_unit u = {.nr_blocks = 100000, .lbs_bytes = 512, .serial = "serial", .can_lba_status = true};
	uint8_t *out = malloc(SCSI_ANSWER_MAX);
	bool has_attention = true;

	insist(out, "memory");
	for (; nr_bytes >= 16; data += 16, nr_bytes -= 16) {
		struct tgt_result r;
		tgt_scsi_decode(data, data[15] & 1 ? NULL : &u, data[15] >> 1, TGT_KEYS_MAX, &has_attention, out, &r);
		if (r.action == TGT_READ)
			insist(r.lba < u.nr_blocks && r.nr_bytes / 512 <= u.nr_blocks - r.lba, "reads stay on the disk");
		else if (r.action == TGT_LBA_STATUS)
			insist(r.lba < u.nr_blocks && r.allocation >= 24, "a place and room");
		else
			insist(r.nr_bytes <= SCSI_ANSWER_MAX, "answers fit");
		insist(r.sense == SENSE_NONE || r.nr_bytes == 0, "sense or data");
	}
	free(out);
}

static void feed_binary(const uint8_t *data, size_t nr_bytes)
{
	char *text = malloc(nr_bytes + 1);
	uint32_t v;

	insist(text, "memory");
	memcpy(text, data, nr_bytes);
	text[nr_bytes] = 0;
	for (size_t max = 0; max <= 64; max += 16) {
		uint8_t *out = malloc(max ? max : 1);
		insist(out, "memory");
		insist(tgt_binary_decode(text, out, max) <= (int)max, "values fit");
		free(out);
	}
	insist(!tgt_number_parse(text, 1000, &v) || v <= 1000, "numbers have their bound");
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nr_bytes)
{
	static const struct kedge_chap one_way = {.user = "user", .secret = "a-secret-of-many-bytes"};
	static const struct kedge_chap both_ways = {
		.user = "user", .secret = "a-secret-of-many-bytes", .mutual_user = "target", .mutual_secret = "another-secret-of-many"};
	struct tgt_policy policy = {.iqn = "iqn.2026-01.test.kedge:fuzz"};

	if (nr_bytes == 0)
		return 0;
	switch (data[0]) {
	case 's':
		feed_scsi(data + 1, nr_bytes - 1);
		return 0;
	case 'b':
		feed_binary(data + 1, nr_bytes - 1);
		return 0;
	case 'c':
		policy.chap = &one_way;
		break;
	case 'm':
		policy.chap = &both_ways;
		policy.initiator_iqn = "iqn.2026-01.test.kedge:me";
		break;
	default:
		break;
	}
	feed_login(&policy, data + 1, nr_bytes - 1);
	return 0;
}

#ifdef KEDGE_FUZZ_REPLAY
static int replay(const char *path)
{
	static uint8_t buf[1 << 20];
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f) {
		fprintf(stderr, "fuzz_login: cannot open %s\n", path);
		return -1;
	}
	n = fread(buf, 1, sizeof buf, f);
	fclose(f);
	uint8_t *exact = malloc(n ? n : 1);
	insist(exact, "memory");
	memcpy(exact, buf, n);
	LLVMFuzzerTestOneInput(exact, n);
	free(exact);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned nr_files = 0;
	struct dirent *e;
	DIR *d = argc == 2 ? opendir(argv[1]) : NULL;

	if (!d) {
		fprintf(stderr, "usage: %s DIRECTORY-OF-INPUTS\n", argv[0]);
		return 2;
	}
	for (e = readdir(d); e; e = readdir(d)) {
		char path[4096];
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", argv[1], e->d_name);
		if (replay(path) < 0)
			return 1;
		nr_files++;
	}
	closedir(d);
	printf("%u inputs\n", nr_files);
	return nr_files ? 0 : 1;
}
#endif
