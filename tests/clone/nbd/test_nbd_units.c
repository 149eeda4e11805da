/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pure parts of the NBD front end: requests, replies, negotiation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/bytes.h"
#include "nbd_nego.h"
#include "nbd_proto.h"

#define SIZE_BYTES ((UINT64_C(1) << 30) + 1536)
#define REP_HEAD 20u

/* ---- a client's side of negotiation ---- */

struct talk {
	struct nbd_nego n;
	struct nbd_out out;
	uint8_t in[NBD_OPT_HEAD_BYTES + NBD_OPT_MAX_BYTES + 64];
	size_t nr_in;
};

static void put(struct talk *t, const void *data, size_t nr_bytes)
{
	assert_true(t->nr_in + nr_bytes <= sizeof t->in);
	memcpy(t->in + t->nr_in, data, nr_bytes);
	t->nr_in += nr_bytes;
}

static void put16(struct talk *t, uint16_t v)
{
	uint8_t b[2];

	kedge_put_be16(b, v);
	put(t, b, 2);
}

static void put32(struct talk *t, uint32_t v)
{
	uint8_t b[4];

	kedge_put_be32(b, v);
	put(t, b, 4);
}

static void put_text(struct talk *t, const char *text)
{
	put32(t, (uint32_t)strlen(text));
	put(t, text, strlen(text));
}

static void put_option(struct talk *t, uint32_t option, uint32_t nr_bytes)
{
	put(t, "IHAVEOPT", 8);
	put32(t, option);
	put32(t, nr_bytes);
}

/* The length, once the data is there. */
static void end_option(struct talk *t, size_t at)
{
	kedge_put_be32(t->in + at + 12, (uint32_t)(t->nr_in - at - NBD_OPT_HEAD_BYTES));
}

static enum nbd_step feed(struct talk *t)
{
	size_t used;
	enum nbd_step step = nbd_nego_feed(&t->n, t->in, t->nr_in, &used, &t->out);

	assert_true(used <= t->nr_in);
	assert_true(t->out.nr_bytes <= sizeof t->out.buf);
	if (step == NBD_STEP_MORE)
		assert_int_equal(used, 0);
	memmove(t->in, t->in + used, t->nr_in - used);
	t->nr_in -= used;
	return step;
}

static void begin(struct talk *t, uint32_t flags)
{
	memset(t, 0, sizeof *t);
	nbd_nego_begin(&t->n, SIZE_BYTES, &t->out);
	put32(t, flags);
	assert_int_equal(feed(t), NBD_STEP_GO_ON);
}

/* The nr-th reply in the output: its type, its data. */
static uint32_t reply_of(const struct talk *t, unsigned nr, uint32_t option, const uint8_t **ret_data, uint32_t *ret_bytes)
{
	size_t at = 0;

	for (;; nr--) {
		assert_true(at + REP_HEAD <= t->out.nr_bytes);
		const uint8_t *p = t->out.buf + at;
		assert_true(kedge_get_be64(p) == NBD_REP_MAGIC);
		assert_int_equal(kedge_get_be32(p + 8), option);
		*ret_bytes = kedge_get_be32(p + 16);
		*ret_data = p + REP_HEAD;
		assert_true(at + REP_HEAD + *ret_bytes <= t->out.nr_bytes);
		if (nr == 0)
			return kedge_get_be32(p + 12);
		at += REP_HEAD + *ret_bytes;
	}
}

static uint32_t only_reply(const struct talk *t, uint32_t option)
{
	const uint8_t *data;
	uint32_t n, type = reply_of(t, 0, option, &data, &n);

	assert_int_equal(t->out.nr_bytes, REP_HEAD + n);
	return type;
}

static void ask_structured(struct talk *t)
{
	put_option(t, NBD_OPT_STRUCTURED_REPLY, 0);
	assert_int_equal(feed(t), NBD_STEP_GO_ON);
	assert_int_equal(only_reply(t, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
}

static void put_contexts(struct talk *t, uint32_t option, unsigned nr, const char *const *names)
{
	size_t at = t->nr_in;

	put_option(t, option, 0);
	put_text(t, "any name");
	put32(t, nr);
	for (unsigned i = 0; i < nr; i++)
		put_text(t, names[i]);
	end_option(t, at);
}

/* ---- negotiation ---- */

static void test_nego_greeting_is_fixed_newstyle(void **state)
{
	struct nbd_nego n;
	struct nbd_out out;

	nbd_nego_begin(&n, SIZE_BYTES, &out);
	assert_int_equal(out.nr_bytes, 18);
	assert_memory_equal(out.buf, "NBDMAGICIHAVEOPT", 16);
	assert_int_equal(kedge_get_be16(out.buf + 16), 3);
}

static void test_nego_unknown_client_flags_close(void **state)
{
	struct talk t = {0};

	nbd_nego_begin(&t.n, SIZE_BYTES, &t.out);
	put32(&t, 4);
	assert_int_equal(feed(&t), NBD_STEP_CLOSE);
}

static void test_nego_waits_for_every_missing_byte(void **state)
{
	struct talk t;
	uint8_t whole[64];
	size_t n;

	begin(&t, 3);
	put_option(&t, NBD_OPT_GO, 0);
	put_text(&t, "disk");
	put16(&t, 1);
	put16(&t, NBD_INFO_BLOCK_SIZE);
	end_option(&t, 0);
	n = t.nr_in;
	memcpy(whole, t.in, n);
	for (size_t some = 0; some < n; some++) {
		memcpy(t.in, whole, some);
		t.nr_in = some;
		assert_int_equal(feed(&t), NBD_STEP_MORE);
	}
	memcpy(t.in, whole, n);
	t.nr_in = n;
	assert_int_equal(feed(&t), NBD_STEP_TRANSMIT);
	assert_int_equal(t.nr_in, 0);
}

static void test_nego_go_says_size_flags_and_block_size(void **state)
{
	struct talk t;
	const uint8_t *data;
	uint32_t n;

	begin(&t, 3);
	put_option(&t, NBD_OPT_GO, 6);
	put_text(&t, "");
	put16(&t, 0);
	assert_int_equal(feed(&t), NBD_STEP_TRANSMIT);
	assert_int_equal(reply_of(&t, 0, NBD_OPT_GO, &data, &n), NBD_REP_INFO);
	assert_int_equal(n, 12);
	assert_int_equal(kedge_get_be16(data), NBD_INFO_EXPORT);
	assert_true(kedge_get_be64(data + 2) == SIZE_BYTES);
	/* has flags, flush, FUA, trim, write zeroes, multi-conn; no DF without structured replies, not read-only, not rotational */
	assert_int_equal(kedge_get_be16(data + 10), 0x1 | 0x4 | 0x8 | 0x20 | 0x40 | 0x100);
	assert_int_equal(reply_of(&t, 1, NBD_OPT_GO, &data, &n), NBD_REP_INFO);
	assert_int_equal(kedge_get_be16(data), NBD_INFO_BLOCK_SIZE);
	assert_int_equal(kedge_get_be32(data + 2), 512);
	assert_int_equal(kedge_get_be32(data + 6), 4096);
	assert_int_equal(kedge_get_be32(data + 10), 32 << 20);
	assert_int_equal(reply_of(&t, 2, NBD_OPT_GO, &data, &n), NBD_REP_ACK);
}

static void test_nego_info_does_not_begin_transmission(void **state)
{
	struct talk t;

	begin(&t, 3);
	put_option(&t, NBD_OPT_INFO, 6);
	put_text(&t, "");
	put16(&t, 0);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
}

static void test_nego_go_with_wrong_lengths_is_invalid(void **state)
{
	static const struct {
		uint32_t name_bytes;
		uint16_t nr_infos;
		unsigned nr_tail;
	} bad[] = {{1000, 0, 0}, {UINT32_MAX, 0, 0}, {0, 1, 0}, {0, 0, 2}, {0, 65535, 2}, {UINT32_MAX - 3, 0, 4}};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(bad); i++) {
		struct talk t;
		begin(&t, 3);
		put_option(&t, NBD_OPT_GO, 0);
		put32(&t, bad[i].name_bytes);
		put16(&t, bad[i].nr_infos);
		for (unsigned k = 0; k < bad[i].nr_tail; k++)
			put(&t, "x", 1);
		end_option(&t, 0);
		assert_int_equal(feed(&t), NBD_STEP_GO_ON);
		assert_int_equal(only_reply(&t, NBD_OPT_GO), NBD_REP_ERR_INVALID);
	}
}

static void test_nego_export_name_pads_unless_told_not_to(void **state)
{
	for (unsigned no_zeroes = 0; no_zeroes < 2; no_zeroes++) {
		struct talk t;
		begin(&t, 1 | no_zeroes << 1);
		put_option(&t, NBD_OPT_EXPORT_NAME, 3);
		put(&t, "abc", 3);
		assert_int_equal(feed(&t), NBD_STEP_TRANSMIT);
		assert_int_equal(t.out.nr_bytes, no_zeroes ? 10 : 134);
		assert_true(kedge_get_be64(t.out.buf) == SIZE_BYTES);
		for (size_t i = 10; i < t.out.nr_bytes; i++)
			assert_int_equal(t.out.buf[i], 0);
	}
}

static void test_nego_list_has_one_export(void **state)
{
	struct talk t;
	const uint8_t *data;
	uint32_t n;

	begin(&t, 3);
	put_option(&t, NBD_OPT_LIST, 0);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(reply_of(&t, 0, NBD_OPT_LIST, &data, &n), NBD_REP_SERVER);
	assert_int_equal(n, 4);
	assert_int_equal(reply_of(&t, 1, NBD_OPT_LIST, &data, &n), NBD_REP_ACK);
	put_option(&t, NBD_OPT_LIST, 1);
	put(&t, "x", 1);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(only_reply(&t, NBD_OPT_LIST), NBD_REP_ERR_INVALID);
}

static void test_nego_unknown_options_are_refused_and_go_on(void **state)
{
	static const uint32_t options[] = {0, 4, NBD_OPT_STARTTLS, 11, 12, 0x7fffffff, UINT32_MAX};

	for (size_t i = 0; i < KEDGE_ARRAY_LEN(options); i++) {
		struct talk t;
		begin(&t, 3);
		put_option(&t, options[i], 5);
		put(&t, "hello", 5);
		assert_int_equal(feed(&t), NBD_STEP_GO_ON);
		assert_int_equal(only_reply(&t, options[i]), NBD_REP_ERR_UNSUP);
		ask_structured(&t);
	}
}

static void test_nego_abort_is_acknowledged(void **state)
{
	struct talk t;

	begin(&t, 3);
	put_option(&t, NBD_OPT_ABORT, 0);
	assert_int_equal(feed(&t), NBD_STEP_CLOSE);
	assert_int_equal(only_reply(&t, NBD_OPT_ABORT), NBD_REP_ACK);
}

static void test_nego_wrong_magic_and_long_options_close(void **state)
{
	struct talk t;

	begin(&t, 3);
	put(&t, "IHAVEOPS", 8);
	put32(&t, NBD_OPT_LIST);
	put32(&t, 0);
	assert_int_equal(feed(&t), NBD_STEP_CLOSE);
	begin(&t, 3);
	put_option(&t, NBD_OPT_LIST, NBD_OPT_MAX_BYTES + 1); /* before its data is waited for */
	assert_int_equal(feed(&t), NBD_STEP_CLOSE);
}

static void test_nego_contexts_need_structured_replies(void **state)
{
	static const char *const names[] = {"kedge:hydrated"};
	struct talk t;

	begin(&t, 3);
	put_contexts(&t, NBD_OPT_SET_META_CONTEXT, 1, names);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(only_reply(&t, NBD_OPT_SET_META_CONTEXT), NBD_REP_ERR_INVALID);
	assert_false(t.n.is_context[NBD_CONTEXT_HYDRATED]);
}

static void test_nego_set_context_takes_those_it_knows(void **state)
{
	static const char *const names[] = {"other:thing", "kedge:hydrated", "kedge:", "base:allocatio"};
	struct talk t;
	const uint8_t *data;
	uint32_t n;

	begin(&t, 3);
	ask_structured(&t);
	put_contexts(&t, NBD_OPT_SET_META_CONTEXT, 4, names);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(reply_of(&t, 0, NBD_OPT_SET_META_CONTEXT, &data, &n), NBD_REP_META_CONTEXT);
	assert_int_equal(kedge_get_be32(data), NBD_CONTEXT_HYDRATED);
	assert_int_equal(n, 4 + strlen("kedge:hydrated"));
	assert_memory_equal(data + 4, "kedge:hydrated", n - 4);
	assert_int_equal(reply_of(&t, 1, NBD_OPT_SET_META_CONTEXT, &data, &n), NBD_REP_ACK);
	assert_true(t.n.is_context[NBD_CONTEXT_HYDRATED]);
	assert_false(t.n.is_context[NBD_CONTEXT_ALLOCATION]);
	assert_true(nbd_nego_flags(&t.n) & NBD_TX_SEND_DF);
	/* the next choice replaces this one, also when it is a bad one */
	put_option(&t, NBD_OPT_SET_META_CONTEXT, 2);
	put16(&t, 0);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(only_reply(&t, NBD_OPT_SET_META_CONTEXT), NBD_REP_ERR_INVALID);
	assert_false(t.n.is_context[NBD_CONTEXT_HYDRATED]);
}

static unsigned nr_listed(unsigned nr, const char *const *names)
{
	struct talk t;
	const uint8_t *data;
	uint32_t n;
	unsigned found = 0;

	begin(&t, 3);
	ask_structured(&t);
	put_contexts(&t, NBD_OPT_LIST_META_CONTEXT, nr, names);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	while (reply_of(&t, found, NBD_OPT_LIST_META_CONTEXT, &data, &n) == NBD_REP_META_CONTEXT)
		found++;
	assert_false(t.n.is_context[NBD_CONTEXT_HYDRATED] || t.n.is_context[NBD_CONTEXT_ALLOCATION]);
	return found;
}

static void test_nego_list_contexts_by_name_by_space_or_all(void **state)
{
	static const char *const space[] = {"kedge:"}, *const name[] = {"base:allocation"}, *const both[] = {"base:", "kedge:hydrated"},
				 *const none[] = {"base", "x:y"};

	assert_int_equal(nr_listed(0, NULL), 2);
	assert_int_equal(nr_listed(1, space), 1);
	assert_int_equal(nr_listed(1, name), 1);
	assert_int_equal(nr_listed(2, both), 2);
	assert_int_equal(nr_listed(2, none), 0);
}

static void test_nego_context_queries_never_overflow_the_output(void **state)
{
	struct talk t;
	const uint8_t *data;
	uint32_t n;

	begin(&t, 3);
	ask_structured(&t);
	put_option(&t, NBD_OPT_SET_META_CONTEXT, 0);
	put_text(&t, "");
	put32(&t, 800);
	for (unsigned i = 0; i < 800; i++)
		put_text(&t, i % 2 ? "base:allocation" : "kedge:hydrated");
	end_option(&t, 0);
	assert_int_equal(feed(&t), NBD_STEP_GO_ON);
	assert_int_equal(reply_of(&t, 2, NBD_OPT_SET_META_CONTEXT, &data, &n), NBD_REP_ACK); /* each context once */
}

static uint64_t draw(uint64_t *rng, uint64_t below)
{
	*rng ^= *rng << 13;
	*rng ^= *rng >> 7;
	*rng ^= *rng << 17;
	return *rng % below;
}

/* A few valid options after each other, with some bytes changed: whatever comes, every bound holds and it ends. */
static void test_nego_survives_mutated_talks(void **state)
{
	static const char *const names[] = {"base:allocation", "kedge:hydrated"};
	uint64_t rng = 20261123;
	unsigned nr_transmit = 0, nr_close = 0;

	for (unsigned round = 0; round < 20000; round++) {
		struct talk t = {0};
		enum nbd_step step = NBD_STEP_GO_ON;
		size_t at;
		nbd_nego_begin(&t.n, SIZE_BYTES, &t.out);
		put32(&t, 3);
		put_option(&t, NBD_OPT_STRUCTURED_REPLY, 0);
		put_contexts(&t, draw(&rng, 2) ? NBD_OPT_SET_META_CONTEXT : NBD_OPT_LIST_META_CONTEXT, 2, names);
		end_option(&t, 20);
		at = t.nr_in;
		put_option(&t, draw(&rng, 2) ? NBD_OPT_GO : NBD_OPT_EXPORT_NAME, 0);
		put_text(&t, "name");
		put16(&t, 0);
		end_option(&t, at);
		for (uint64_t n = draw(&rng, 4); n; n--)
			t.in[draw(&rng, t.nr_in)] = (uint8_t)draw(&rng, 256);
		if (draw(&rng, 4) == 0)
			t.nr_in = draw(&rng, t.nr_in);
		for (unsigned i = 0; i < 8 && step == NBD_STEP_GO_ON; i++)
			step = feed(&t);
		nr_transmit += step == NBD_STEP_TRANSMIT;
		nr_close += step == NBD_STEP_CLOSE;
	}
	assert_true(nr_transmit > 1000 && nr_close > 1000);
}

/* ---- requests ---- */

static void test_request_is_decoded_big_endian(void **state)
{
	static const uint8_t in[NBD_REQUEST_BYTES] = {0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8,
						      0, 0, 0, 1, 0, 0, 0x10, 0, 0, 0, 0x20, 0};
	uint8_t wrong[NBD_REQUEST_BYTES];
	struct nbd_request r;

	assert_int_equal(nbd_request_decode(in, &r), 0);
	assert_int_equal(r.flags, NBD_CMD_FLAG_FUA);
	assert_int_equal(r.cmd, NBD_CMD_WRITE_ZEROES);
	assert_true(r.cookie == UINT64_C(0x0102030405060708));
	assert_true(r.start_bytes == UINT64_C(0x100001000));
	assert_int_equal(r.nr_bytes, 0x2000);
	memcpy(wrong, in, sizeof in);
	wrong[3] ^= 1;
	assert_int_equal(nbd_request_decode(wrong, &r), -EBADMSG);
}

static uint32_t check(uint16_t cmd, uint16_t flags, uint64_t start, uint32_t n)
{
	struct nbd_request r = {.cmd = cmd, .flags = flags, .start_bytes = start, .nr_bytes = n};

	return nbd_request_check(&r, SIZE_BYTES, true);
}

static void test_request_bounds_hold_to_the_byte(void **state)
{
	static const uint16_t changes[] = {NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM};

	assert_int_equal(check(NBD_CMD_READ, 0, SIZE_BYTES - 512, 512), 0);
	assert_int_equal(check(NBD_CMD_READ, 0, SIZE_BYTES - 512, 1024), NBD_EINVAL);
	assert_int_equal(check(NBD_CMD_READ, 0, UINT64_MAX - 511, 512), NBD_EINVAL); /* the sum would wrap */
	assert_int_equal(check(NBD_CMD_READ, 0, 0, 0), NBD_EINVAL);
	assert_int_equal(check(NBD_CMD_READ, 0, 0, 32 << 20), 0);
	assert_int_equal(check(NBD_CMD_READ, 0, 0, (32 << 20) + 512), NBD_EINVAL);
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(changes); i++) {
		assert_int_equal(check(changes[i], 0, SIZE_BYTES - 512, 512), 0);
		assert_int_equal(check(changes[i], 0, SIZE_BYTES, 512), NBD_ENOSPC);
		assert_int_equal(check(changes[i], 0, UINT64_MAX - 511, 512), NBD_ENOSPC);
		assert_int_equal(check(changes[i], 0, 1, 512), NBD_EINVAL);
		assert_int_equal(check(changes[i], 0, 0, 513), NBD_EINVAL);
	}
	assert_int_equal(check(NBD_CMD_FLUSH, 0, 0, 0), 0);
	assert_int_equal(check(NBD_CMD_FLUSH, 0, 512, 0), NBD_EINVAL);
}

static void test_request_flags_are_checked_by_command(void **state)
{
	assert_int_equal(check(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 0, 512), 0);
	assert_int_equal(check(NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE, 0, 512), NBD_EINVAL);
	assert_int_equal(check(NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE, 0, 512), 0);
	assert_int_equal(check(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512), 0);
	assert_int_equal(check(NBD_CMD_TRIM, NBD_CMD_FLAG_DF, 0, 512), NBD_EINVAL);
	assert_int_equal(check(NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, 512), 0);
	assert_int_equal(check(NBD_CMD_WRITE_ZEROES, 16 /* fast zero, not offered */, 0, 512), NBD_EINVAL);
	for (unsigned cmd = 0; cmd < 70000; cmd++)
		if (cmd == 5 || cmd == 8 || (cmd > 8 && cmd <= UINT16_MAX))
			assert_int_equal(check((uint16_t)cmd, 0, 0, 512), NBD_EINVAL);
}

static void test_block_status_needs_a_context(void **state)
{
	struct nbd_request r = {.cmd = NBD_CMD_BLOCK_STATUS, .nr_bytes = 512};

	assert_int_equal(nbd_request_check(&r, SIZE_BYTES, false), NBD_EINVAL);
	assert_int_equal(nbd_request_check(&r, SIZE_BYTES, true), 0);
}

/* ---- replies ---- */

static void test_replies_are_encoded_to_the_byte(void **state)
{
	static const uint8_t simple[] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8};
	static const uint8_t data[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, 8, 0, 0, 0, 0, 0, 1, 0, 0};
	static const uint8_t error[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 6, 0, 0, 0, 28, 0, 0};
	const uint64_t cookie = UINT64_C(0x0102030405060708);
	uint8_t out[NBD_HEAD_BYTES];

	assert_int_equal(nbd_simple_encode(out, cookie, NBD_EIO), sizeof simple);
	assert_memory_equal(out, simple, sizeof simple);
	assert_int_equal(nbd_data_encode(out, cookie, 65536, 512), sizeof data);
	assert_memory_equal(out, data, sizeof data);
	assert_int_equal(nbd_error_encode(out, cookie, NBD_ENOSPC), sizeof error);
	assert_memory_equal(out, error, sizeof error);
}

static void test_errors_have_numbers_of_the_protocol(void **state)
{
	assert_int_equal(nbd_errno(0), 0);
	assert_int_equal(nbd_errno(-ENOSPC), 28);
	assert_int_equal(nbd_errno(-EINVAL), 22);
	assert_int_equal(nbd_errno(-EIO), 5);
	assert_int_equal(nbd_errno(-ETIMEDOUT), 5); /* not in the protocol */
	assert_int_equal(nbd_errno(-100000), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nego_greeting_is_fixed_newstyle),
		cmocka_unit_test(test_nego_unknown_client_flags_close),
		cmocka_unit_test(test_nego_waits_for_every_missing_byte),
		cmocka_unit_test(test_nego_go_says_size_flags_and_block_size),
		cmocka_unit_test(test_nego_info_does_not_begin_transmission),
		cmocka_unit_test(test_nego_go_with_wrong_lengths_is_invalid),
		cmocka_unit_test(test_nego_export_name_pads_unless_told_not_to),
		cmocka_unit_test(test_nego_list_has_one_export),
		cmocka_unit_test(test_nego_unknown_options_are_refused_and_go_on),
		cmocka_unit_test(test_nego_abort_is_acknowledged),
		cmocka_unit_test(test_nego_wrong_magic_and_long_options_close),
		cmocka_unit_test(test_nego_contexts_need_structured_replies),
		cmocka_unit_test(test_nego_set_context_takes_those_it_knows),
		cmocka_unit_test(test_nego_list_contexts_by_name_by_space_or_all),
		cmocka_unit_test(test_nego_context_queries_never_overflow_the_output),
		cmocka_unit_test(test_nego_survives_mutated_talks),
		cmocka_unit_test(test_request_is_decoded_big_endian),
		cmocka_unit_test(test_request_bounds_hold_to_the_byte),
		cmocka_unit_test(test_request_flags_are_checked_by_command),
		cmocka_unit_test(test_block_status_needs_a_context),
		cmocka_unit_test(test_replies_are_encoded_to_the_byte),
		cmocka_unit_test(test_errors_have_numbers_of_the_protocol),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
