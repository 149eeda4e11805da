/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The verbs that tell: status, why, events, receipt.
 *
 * Owns. Nothing beyond one call.
 *
 * Locks. None: one thread.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "cli_view.h"
#include "kedge/file.h"
#include "kedge/size.h"
#include "orch/http.h"

#define CALL_MS 60000
#define FOLLOW_MS 5000

static void print_migrations(const json_t *migrations)
{
	struct view_memory memory = {0};
	char line[VIEW_LINE_MAX];
	size_t i;
	json_t *migration;

	json_array_foreach(migrations, i, migration) {
		view_migration_line(&memory, migration, 0, false, line, sizeof line);
		puts(line);
	}
	view_memory_fini(&memory);
}

static void print_drain(const json_t *drain)
{
	char line[VIEW_LINE_MAX];

	view_drain_line(drain, 0, line, sizeof line);
	printf("%s\n  id %s\n", line, view_text(drain, "id", "?"));
	print_migrations(json_object_get(drain, "migrations"));
}

static void print_hosts(const json_t *hosts)
{
	char room[32], exposed[32];
	size_t i;
	json_t *host;

	json_array_foreach(hosts, i, host) {
		const json_t *cordon = json_object_get(host, "cordon");
		printf("host %s: %s, %" PRIu64 " volumes, %" PRIu64 " workloads, %s free", view_text(host, "name", "?"),
		       view_text(host, "state", "?"), view_u64(host, "nr_volumes"), view_u64(host, "nr_workloads"),
		       kedge_size_format(view_u64(host, "free_bytes"), room, sizeof room));
		if (view_u64(host, "exposed_bytes"))
			printf(", %s exposed", kedge_size_format(view_u64(host, "exposed_bytes"), exposed, sizeof exposed));
		if (json_is_object(cordon))
			printf(", cordoned by %s", view_text(cordon, "owner", "?"));
		putchar('\n');
	}
}

static void print_everything(const json_t *answer)
{
	size_t i;
	json_t *drain;

	if (strcmp(view_text(answer, "role", ""), "agent") == 0) {
		printf("host %s: an agent; ask the coordinator's host for the whole\n", view_text(answer, "host", "?"));
		return;
	}
	print_hosts(json_object_get(answer, "hosts"));
	json_array_foreach(json_object_get(answer, "drains"), i, drain)
		print_drain(drain);
	if (json_array_size(json_object_get(answer, "drains")) == 0)
		puts("no drain is under way");
}

static int status_everything(struct cli *c)
{
	bool is_watch = cli_opt(c, "watch") != NULL;
	json_t *answer;
	int res;

	if (is_watch)
		cli_interrupt_init();
	do {
		res = cli_get(c, "/v1/status", &answer);
		if (res)
			return cli_is_interrupted() ? KEDGE_EXIT_DETACHED : res;
		if (is_watch && isatty(STDOUT_FILENO))
			fputs("\033[H\033[J", stdout);
		if (cli_opt(c, "json"))
			cli_print_json(answer, !is_watch);
		else
			print_everything(answer);
		fflush(stdout);
		res = cli_opt(c, "exit-code") && json_array_size(json_object_get(answer, "drains")) ? KEDGE_EXIT_PARTLY : KEDGE_EXIT_OK;
		json_decref(answer);
		if (is_watch && !cli_is_interrupted())
			cli_sleep(1000);
	} while (is_watch && !cli_is_interrupted());
	return is_watch ? KEDGE_EXIT_DETACHED : res;
}

/* Is there such a thing under this path? 0 with the object, KEDGE_EXIT_NOT_FOUND without a word, or another exit code. */
static int look_up(struct cli *c, const char *kind, const char *id, json_t **ret_object)
{
	struct kedge_err err = {0};
	unsigned status;
	json_t *answer;
	char path[160];

	snprintf(path, sizeof path, "/v1/%s/%s", kind, id);
	int res = cli_http_call(c->http, "GET", path, NULL, CALL_MS, &status, &answer, &err);
	if (res)
		return cli_no_answer(c, res, &err);
	if (status == 200) {
		*ret_object = answer;
		return 0;
	}
	res = status == 404 ? KEDGE_EXIT_NOT_FOUND : cli_answer_error(status, answer);
	json_decref(answer);
	return res;
}

static int show_object(struct cli *c, const char *kind, json_t *object)
{
	int res = KEDGE_EXIT_OK;

	if (cli_opt(c, "json")) {
		cli_print_json(object, true);
	} else if (strcmp(kind, "drains") == 0) {
		print_drain(object);
	} else if (strcmp(kind, "migrations") == 0) {
		json_t *one = json_pack("[O]", object);
		print_migrations(one);
		json_decref(one);
	} else {
		size_t i;
		json_t *volume;
		char size[32];
		json_array_foreach(json_object_get(object, "volumes"), i, volume)
			printf("volume %s on %s: %s, %s, epoch %" PRIu64 "\n", view_text(volume, "name", "?"),
			       view_text(volume, "host", "?"), view_text(volume, "state", "?"),
			       kedge_size_format(view_u64(volume, "size_bytes"), size, sizeof size), view_u64(volume, "epoch"));
	}
	if (cli_opt(c, "exit-code") && strcmp(kind, "volumes") != 0)
		res = cli_exit_of_state(object);
	return res;
}

int cli_status(struct cli *c)
{
	static const char *const kinds[] = {"drains", "migrations", "volumes"};
	const char *id = c->nr_args ? c->args[0] : NULL;
	json_t *object = NULL;
	int res;

	if (!id)
		return status_everything(c);
	res = cli_check_id("drain, migration or volume", id);
	if (res)
		return res;
	for (size_t i = 0; i < 3; i++) {
		res = look_up(c, kinds[i], id, &object);
		if (res == KEDGE_EXIT_NOT_FOUND)
			continue;
		if (res)
			return res;
		if (cli_opt(c, "watch") && i < 2) {
			const char *drain = i == 0 ? id : view_text(object, "drain", id);
			res = cli_watch_drain(c, drain);
		} else {
			res = show_object(c, kinds[i], object);
		}
		json_decref(object);
		return res;
	}
	return cli_error(KEDGE_EXIT_NOT_FOUND, "kedge status", "there is no drain, migration or volume %s", id);
}

int cli_why(struct cli *c)
{
	char path[128];
	json_t *answer;
	int res = cli_check_id("drain, migration, volume or workload", c->args[0]);

	if (res)
		return res;
	snprintf(path, sizeof path, "/v1/why/%s", c->args[0]);
	res = cli_get(c, path, &answer);
	if (res)
		return res;
	if (cli_opt(c, "json")) {
		cli_print_json(answer, true);
	} else {
		puts(view_text(answer, "reason", "no reason is known"));
		if (view_text(answer, "command", "")[0])
			printf("next: %s\n", view_text(answer, "command", ""));
	}
	json_decref(answer);
	return KEDGE_EXIT_OK;
}

int cli_events(struct cli *c)
{
	const char *since_text = cli_opt(c, "since"), *drain = cli_opt(c, "drain");
	bool is_follow = cli_opt(c, "follow") != NULL;
	unsigned long long since = 0;
	char path[256], line[VIEW_LINE_MAX], *end;
	json_t *answer, *event;
	size_t i;
	int res = drain ? cli_check_id("drain", drain) : 0;

	if (since_text) {
		since = strtoull(since_text, &end, 10);
		if (*end || since_text[0] < '0' || since_text[0] > '9')
			return cli_error(KEDGE_EXIT_USAGE, NULL, "--since: \"%s\" is not an event's number", since_text);
	}
	if (is_follow)
		cli_interrupt_init();
	while (!res) {
		snprintf(path, sizeof path, "/v1/events?since=%llu&wait_ms=%d%s%s", since, is_follow ? FOLLOW_MS : 0,
			 drain ? "&drain=" : "", drain ? drain : "");
		res = cli_get(c, path, &answer);
		if (res)
			return cli_is_interrupted() ? KEDGE_EXIT_DETACHED : res;
		json_array_foreach(json_object_get(answer, "events"), i, event) {
			if (view_u64(event, "seq") > since)
				since = view_u64(event, "seq");
			if (cli_opt(c, "json")) {
				cli_print_json(event, false);
				continue;
			}
			view_event_line(event, line, sizeof line);
			printf("%6" PRIu64 "  %s\n", view_u64(event, "seq"), line);
		}
		bool was_empty = i == 0;
		json_decref(answer);
		fflush(stdout);
		/* A long history comes in pages. */
		if (!is_follow && was_empty)
			break;
		if (cli_is_interrupted())
			return KEDGE_EXIT_DETACHED;
	}
	return res;
}

/* ---- receipts ---- */

/* The seal is over the canonical form: keys sorted, no blanks, without the seal itself. */
static int verify_receipt(const json_t *receipt, const char *secret_file)
{
	struct kedge_err err = {0};
	char *secret, *text, mac[HTTP_MAC_MAX];
	size_t n;
	json_t *bare;

	if (kedge_file_read_secret(secret_file, 256, &secret, &n, &err))
		return cli_error(KEDGE_EXIT_USAGE, NULL, "--verify: %s", err.msg);
	while (n > 0 && (secret[n - 1] == '\n' || secret[n - 1] == '\r'))
		n--;
	bare = json_deep_copy(receipt);
	json_object_del(bare, "mac");
	text = json_dumps(bare, JSON_COMPACT | JSON_SORT_KEYS);
	http_auth_mac(secret, n, text, strlen(text), mac);
	explicit_bzero(secret, n);
	free(secret);
	free(text);
	json_decref(bare);
	if (!http_auth_is_equal(mac, view_text(receipt, "mac", "")))
		return cli_error(KEDGE_EXIT_REFUSED, NULL, "the seal of receipt %s does not verify: it was changed, or made with another secret",
				 view_text(receipt, "migration", "?"));
	fprintf(stderr, "kedge: the seal of receipt %s verifies\n", view_text(receipt, "migration", "?"));
	return 0;
}

static void print_verified(const json_t *r)
{
	char verified[32], sums[48] = "byte by byte", sampled[32], holes[32], written[32];

	kedge_size_format(view_u64(r, "written_bytes"), written, sizeof written);
	if (!json_object_get(r, "verified_bytes")) {
		printf("verified   against the source, %" PRIu64 " bytes differ; how much in which way is not told; %s written since the boot\n",
		       view_u64(r, "mismatch_bytes"), written);
		return;
	}
	if (view_u64(r, "checksum_bytes"))
		kedge_size_format(view_u64(r, "checksum_bytes"), sums, sizeof sums);
	/* "verified   1 GiB, 0.9 GiB of them by …, the rest byte by byte, against …", or "verified   1 GiB byte by byte against …" */
	printf("verified   %s%s%s%s against the source, %" PRIu64 " bytes differ; %s written since the boot\n",
	       kedge_size_format(view_u64(r, "verified_bytes"), verified, sizeof verified),
	       view_u64(r, "checksum_bytes") ? ", " : " ", sums,
	       view_u64(r, "checksum_bytes") ? " of them by 128-bit checksums made there, the rest byte by byte," : "", view_u64(r, "mismatch_bytes"),
	       written);
	if (view_u64(r, "hole_bytes"))
		printf("holes      %s by what the source says, not read there; %s of the above are samples of holes, seed %" PRIu64 "\n",
		       kedge_size_format(view_u64(r, "hole_bytes"), holes, sizeof holes),
		       kedge_size_format(view_u64(r, "sampled_bytes"), sampled, sizeof sampled), view_u64(r, "sample_seed"));
}

static void print_receipt(const json_t *r)
{
	const json_t *source = json_object_get(r, "source");
	char size[32], downtime[32], left_out[32];

	printf("receipt    %s\n", view_text(r, "migration", "?"));
	printf("volume     %s (%s), epoch %" PRIu64 "\n", view_text(r, "volume", "?"), view_text(r, "volume_uuid", "?"),
	       view_u64(r, "epoch"));
	printf("workload   %s\n", view_text(r, "workload", "-"));
	printf("moved      from %s to %s, %s\n", view_text(r, "from", "?"), view_text(r, "to", "?"),
	       kedge_size_format(view_u64(r, "size_bytes"), size, sizeof size));
	print_verified(r);
	if (view_u64(r, "left_out_bytes"))
		printf("left out   %s of free space, which came as zeroes\n",
		       kedge_size_format(view_u64(r, "left_out_bytes"), left_out, sizeof left_out));
	printf("downtime   %s\n", kedge_duration_format(view_u64(r, "downtime_ms"), downtime, sizeof downtime));
	printf("source     %s, policy %s\n", json_is_true(json_object_get(source, "released")) ? "released" : "kept",
	       view_text(source, "policy", "?"));
}

static int show_receipt(struct cli *c, const char *id)
{
	const char *secret_file = cli_opt(c, "verify");
	json_t *receipt;
	int res = look_up(c, "receipts", id, &receipt);

	if (res)
		return res;
	if (cli_opt(c, "json"))
		cli_print_json(receipt, false);
	else
		print_receipt(receipt);
	if (secret_file)
		res = verify_receipt(receipt, secret_file);
	json_decref(receipt);
	return res;
}

int cli_receipt(struct cli *c)
{
	const char *id = c->args[0];
	json_t *drain, *migration;
	size_t i, nr = 0;
	int res = cli_check_id("migration", id);

	if (!res)
		res = show_receipt(c, id);
	if (res != KEDGE_EXIT_NOT_FOUND)
		return res;
	res = look_up(c, "drains", id, &drain);
	if (!res) {
		json_array_foreach(json_object_get(drain, "migrations"), i, migration) {
			int one = show_receipt(c, view_text(migration, "id", ""));
			if (one && one != KEDGE_EXIT_NOT_FOUND)
				res = one;
			nr += one == 0;
		}
		json_decref(drain);
		if (res || nr)
			return res;
	} else if (res != KEDGE_EXIT_NOT_FOUND) {
		return res;
	}
	return cli_error(KEDGE_EXIT_NOT_FOUND, "kedge status", "there is no receipt for %s (yet)", id);
}
