/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The tool's talk. Data for programs goes to stdout, talk for people to stderr.
 *
 * Owns. Nothing.
 *
 * Locks. None.
 */
#include "progress.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/size.h"

#define NS_PER_S 1000000000ull
#define LIVE_NS (NS_PER_S / 5)
#define JSON_NS NS_PER_S
#define LINE_NS (10 * NS_PER_S)
#define LINE_PERCENT 5

void kcopy_progress_init(struct kcopy_progress *p, bool is_json, int fd, uint64_t size_bytes, uint64_t resumed_bytes)
{
	*p = (struct kcopy_progress){
		.is_json = is_json,
		.is_tty = isatty(STDERR_FILENO),
		.fd = fd,
		.size_bytes = size_bytes,
		.resumed_bytes = resumed_bytes,
		.begin_ns = kedge_clock_ns(),
		.start_ns = kedge_clock_ns(),
		.said_ns = kedge_clock_ns(),
		.fd_percent = -1,
	};
}

static unsigned percent_of(const struct kcopy_progress *p, uint64_t done_bytes)
{
	return p->size_bytes ? (unsigned)((unsigned __int128)done_bytes * 100 / p->size_bytes) : 100;
}

static void print_json(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;

	if (text) {
		puts(text);
		fflush(stdout);
	}
	free(text);
	json_decref(object);
}

/* Milliseconds until the end at the mean pace so far (holes and all), or -1 when that is not known. */
static int64_t eta_ms(const struct kcopy_progress *p, uint64_t done_bytes, uint64_t now_ns)
{
	uint64_t moved_bytes = done_bytes > p->resumed_bytes ? done_bytes - p->resumed_bytes : 0;
	uint64_t passed_ms = (now_ns - p->start_ns) / 1000000;

	if (moved_bytes == 0 || passed_ms < 1000)
		return -1;
	return (int64_t)((unsigned __int128)(p->size_bytes - done_bytes) * passed_ms / moved_bytes);
}

static void say_json(struct kcopy_progress *p, const struct kcopy_progress_now *n, uint64_t now_ns)
{
	int64_t eta = eta_ms(p, n->done_bytes, now_ns);
	json_t *o = json_pack("{s:i, s:s, s:s, s:s, s:I, s:I, s:I}", "v", 1, "event", "progress", "phase", n->phase, "state", n->state,
			      "size_bytes", (json_int_t)p->size_bytes, "done_bytes", (json_int_t)n->done_bytes, "rate_bps",
			      (json_int_t)n->rate_bps);

	json_object_set_new(o, "eta_ms", eta >= 0 ? json_integer(eta) : json_null());
	if (n->source_error)
		json_object_set_new(o, "error", json_string(n->source_error));
	print_json(o);
}

static void format_line(const struct kcopy_progress *p, const struct kcopy_progress_now *n, uint64_t now_ns, char *out,
			size_t out_max)
{
	char done[32], size[32], rate[32], eta[48] = "";
	int64_t ms = eta_ms(p, n->done_bytes, now_ns);

	kedge_size_format(n->done_bytes, done, sizeof done);
	kedge_size_format(p->size_bytes, size, sizeof size);
	kedge_size_format(n->rate_bps, rate, sizeof rate);
	if (ms >= 0 && n->done_bytes < p->size_bytes) {
		char text[32];
		snprintf(eta, sizeof eta, ", %s left", kedge_duration_format((uint64_t)ms, text, sizeof text));
	}
	snprintf(out, out_max, "%s %3u %%  %s of %s %s, %s/s%s%s%s%s", n->phase, percent_of(p, n->done_bytes), done, size,
		 strcmp(n->phase, "copy") == 0 ? "durable" : "compared", rate, eta,
		 n->source_error ? "  [" : "", n->source_error ? n->source_error : "", n->source_error ? "]" : "");
}

static void say_fd(struct kcopy_progress *p, unsigned percent)
{
	char text[16];

	if (p->fd < 0 || (int)percent == p->fd_percent)
		return;
	p->fd_percent = (int)percent;
	kedge_write_full(p->fd, text, (size_t)snprintf(text, sizeof text, "%u/100\n", percent));
}

void kcopy_progress_say(struct kcopy_progress *p, const struct kcopy_progress_now *n)
{
	uint64_t now_ns = kedge_clock_ns(), passed_ns = now_ns - p->said_ns;
	unsigned percent = percent_of(p, n->done_bytes);
	char line[512];

	say_fd(p, percent);
	bool is_time = p->is_json ? passed_ns >= JSON_NS
		     : p->is_tty  ? passed_ns >= LIVE_NS
				  : passed_ns >= LINE_NS || (passed_ns >= NS_PER_S && percent >= p->said_percent + LINE_PERCENT);
	if (!is_time)
		return;
	p->said_ns = now_ns;
	p->said_percent = percent;
	if (p->is_json) {
		say_json(p, n, now_ns);
		return;
	}
	format_line(p, n, now_ns, line, sizeof line);
	if (p->is_tty) {
		fprintf(stderr, "\r\033[K%s", line);
		p->has_line = true;
	} else {
		kedge_info("%s", line);
	}
}

static void end_line(struct kcopy_progress *p)
{
	if (p->has_line)
		fputs("\r\033[K", stderr);
	p->has_line = false;
}

void kcopy_progress_event(struct kcopy_progress *p, const char *name, const char *text)
{
	end_line(p);
	if (p->is_json)
		print_json(json_pack("{s:i, s:s, s:s, s:s}", "v", 1, "event", "event", "name", name, "text", text));
	kedge_warn("%s", text);
}

static json_t *result_json(const struct kcopy_progress *p, const struct kcopy_result *r, uint64_t passed_ms)
{
	json_t *o = json_pack("{s:i, s:s, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I}", "v", 1, "event", "result", "ok", r->code == 0,
			      "code", r->code ? kedge_err_name(r->code) : "OK", "message", r->message, "size_bytes", (json_int_t)p->size_bytes,
			      "copied_bytes", (json_int_t)r->copied_bytes, "zero_bytes", (json_int_t)r->zero_bytes, "resumed_bytes",
			      (json_int_t)r->resumed_bytes, "bad_bytes", (json_int_t)r->bad_bytes, "verified",
			      (int)(r->was_verified && r->code == 0), "reconnects", (json_int_t)r->nr_reconnects, "elapsed_ms",
			      (json_int_t)passed_ms);

	json_object_set_new(o, "verified_bytes", json_integer((json_int_t)r->verified_bytes));
	json_object_set_new(o, "wire_bytes", json_integer((json_int_t)r->wire_bytes));
	json_object_set_new(o, "damaged", json_integer((json_int_t)r->nr_damaged));
	json_object_set_new(o, "hole_bytes", json_integer((json_int_t)r->hole_bytes));
	json_object_set_new(o, "sampled_bytes", json_integer((json_int_t)r->sampled_bytes));
	json_object_set_new(o, "checksum_bytes", json_integer((json_int_t)r->checksum_bytes));
	json_object_set_new(o, "data", json_string(kcopy_data_name(r->data)));
	json_object_set_new(o, "holes", json_string(kcopy_holes_name(r->holes)));
	json_object_set_new(o, "sample_seed", json_integer((json_int_t)r->sample_seed));
	return o;
}

/* "byte by byte", or how much of it otherwise. */
static const char *way_of(const struct kcopy_result *r, char *out, size_t out_max)
{
	char sums[32];

	if (r->checksum_bytes == 0)
		return "byte by byte";
	snprintf(out, out_max, "with the source, %s of them by 128-bit checksums made there",
		 kedge_size_format(r->checksum_bytes, sums, sizeof sums));
	return out;
}

void kcopy_progress_result(struct kcopy_progress *p, const struct kcopy_result *r)
{
	char data[32], zero[32], time[32], way[96];
	uint64_t passed_ms = (kedge_clock_ns() - p->begin_ns) / 1000000;

	end_line(p);
	if (r->code == 0)
		say_fd(p, 100);
	if (p->is_json)
		print_json(result_json(p, r, passed_ms));
	if (r->code != 0)
		return; /* the caller says what went wrong */
	kedge_info("done: %s of data and %s of zeroes in %s%s", kedge_size_format(r->copied_bytes, data, sizeof data),
		   kedge_size_format(r->zero_bytes, zero, sizeof zero), kedge_duration_format(passed_ms, time, sizeof time),
		   r->was_verified ? ", verified" : "");
	if (r->was_verified && r->hole_bytes == 0)
		kedge_info("%s compared %s", kedge_size_format(r->verified_bytes, data, sizeof data), way_of(r, way, sizeof way));
	else if (r->was_verified)
		kedge_info("%s compared %s, %s of them samples of holes; %s more agreed as holes by what the source says (samples by seed %" PRIu64 ")",
			   kedge_size_format(r->verified_bytes, data, sizeof data), way_of(r, way, sizeof way),
			   kedge_size_format(r->sampled_bytes, time, sizeof time),
			   kedge_size_format(r->hole_bytes, zero, sizeof zero), r->sample_seed);
}
