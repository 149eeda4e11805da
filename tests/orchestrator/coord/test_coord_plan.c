/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Units of the planner: where volumes go, and what stands in the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

#include "agent_core.h"
#include "coord_plan.h"

#define MIB (1ull << 20)

static json_t *volume(const char *name, unsigned nr, uint64_t size_bytes, const char *state, unsigned epoch)
{
	char uuid[40];

	snprintf(uuid, sizeof uuid, "00000000-0000-4000-8000-%012u", nr);
	return json_pack("{s:s, s:s, s:I, s:i, s:s, s:i}", "name", name, "uuid", uuid, "size_bytes", (json_int_t)size_bytes, "lbs_bytes", 512,
			 "state", state, "epoch", epoch);
}

static json_t *workload(const char *name, const char *of, const char *state)
{
	return json_pack("{s:s, s:s, s:s, s:{s:[s]}}", "name", name, "volume", of, "state", state, "spec", "start", "/bin/x");
}

static json_t *host(const char *name, uint64_t free_bytes, json_t *volumes, json_t *workloads)
{
	return json_pack("{s:s, s:b, s:n, s:b, s:{s:I, s:o, s:o}}", "name", name, "is_up", 1, "cordon", "is_draining", 0, "facts", "free_bytes",
			 (json_int_t)free_bytes, "volumes", volumes, "workloads", workloads);
}

/* a has two volumes of 64 MiB; b has little room, c much. */
static json_t *world(void)
{
	json_t *on_a = json_pack("[o, o]", volume("v1", 1, 64 * MIB, "local", 3), volume("v2", 2, 64 * MIB, "local", 0));
	json_t *works = json_pack("[o]", workload("w1", "v1", "running"));
	json_t *a = host("a", 0, on_a, works), *b = host("b", 80 * MIB, json_array(), json_array());
	json_t *c = host("c", 1000 * MIB, json_pack("[o]", volume("v1", 1, 64 * MIB, "retained", 5)), json_array());

	return json_pack("{s:[o, o, o], s:{}}", "hosts", a, b, c, "busy");
}

static json_t *host_of(json_t *snapshot, unsigned nr)
{
	return json_array_get(json_object_get(snapshot, "hosts"), nr);
}

static const char *first_blocker(const struct coord_plan *p, size_t move)
{
	const char *text = json_string_value(json_array_get(p->moves[move].blockers, 0));

	return text ? text : "";
}

static void test_the_host_with_the_most_room_is_chosen_and_room_is_counted(void **state)
{
	json_t *s = world();
	struct coord_plan p;

	assert_int_equal(coord_plan(s, "a", NULL, NULL, &p), 0);
	assert_false(coord_plan_is_blocked(&p));
	assert_int_equal(p.nr_moves, 2);
	assert_string_equal(p.moves[0].to, "c");
	assert_string_equal(p.moves[0].workload, "w1");
	assert_true(p.moves[0].wants_start);
	assert_int_equal(p.moves[0].epoch, 5); /* the highest anywhere */
	assert_int_equal(p.moves[1].free_bytes, 1000 * MIB - agent_room_needed(64 * MIB));
	assert_false(p.moves[1].wants_start);
	coord_plan_fini(&p);
	/* to b the first fits and the second does not: the drain is blocked as a whole, before anything is stopped */
	assert_int_equal(coord_plan(s, "a", "b", NULL, &p), 0);
	assert_true(coord_plan_is_blocked(&p));
	assert_string_equal(first_blocker(&p, 0), "");
	assert_non_null(strstr(first_blocker(&p, 1), "not enough room on b"));
	coord_plan_fini(&p);
	json_decref(s);
}

static void test_moves_stand_in_the_order_of_their_names(void **state)
{
	json_t *s = world(), *volumes = json_object_get(json_object_get(host_of(s, 0), "facts"), "volumes");
	struct coord_plan p;

	json_array_insert_new(volumes, 0, volume("v3", 3, MIB, "local", 0));
	json_array_append_new(volumes, volume("a1", 4, MIB, "local", 0));
	assert_int_equal(coord_plan(s, "a", NULL, NULL, &p), 0);
	assert_int_equal(p.nr_moves, 4);
	for (size_t i = 1; i < p.nr_moves; i++)
		assert_true(strcmp(p.moves[i - 1].volume, p.moves[i].volume) < 0);
	coord_plan_fini(&p);
	json_decref(s);
}

static void give_engines(json_t *s, unsigned nr, const char *engine, const char *why)
{
	json_t *facts = json_object_get(host_of(s, nr), "facts");

	json_object_set_new(facts, "engines", json_pack("[s, s]", engine, "user"));
	json_object_set_new(facts, "engine_why", json_string(why));
}

static void test_the_engine_is_what_the_destination_can_do(void **state)
{
	static const struct {
		const char *asked, *on_c, *want, *blocker;
	} rows[] = {{NULL, "dm", "dm", NULL},	  {"auto", "dm", "dm", NULL},	  {"user", "dm", "user", NULL}, {"dm", "dm", "dm", NULL},
		    {NULL, "user", "user", NULL}, {"auto", "user", "user", NULL}, {"dm", "user", "dm", "host c has no engine dm: no such target"}};

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		json_t *s = world();
		struct coord_plan p;
		give_engines(s, 2, rows[i].on_c, strcmp(rows[i].on_c, "dm") == 0 ? "" : "no such target");
		if (rows[i].asked)
			json_object_set_new(s, "engine", json_string(rows[i].asked));
		assert_int_equal(coord_plan(s, "a", "c", NULL, &p), 0);
		assert_string_equal(p.moves[0].engine, rows[i].want);
		assert_int_equal(coord_plan_is_blocked(&p), rows[i].blocker != NULL);
		if (rows[i].blocker)
			assert_non_null(strstr(first_blocker(&p, 0), rows[i].blocker));
		coord_plan_fini(&p);
		json_decref(s);
	}
	/* a host that does not say: an older kedge */
	json_t *s = world();
	struct coord_plan p;
	assert_int_equal(coord_plan(s, "a", "c", NULL, &p), 0);
	assert_string_equal(p.moves[0].engine, "user");
	coord_plan_fini(&p);
	json_decref(s);
}

static void expect_blocked(json_t *s, const char *to, const char *workload_name, const char *text)
{
	struct coord_plan p;
	char *json;

	assert_int_equal(coord_plan(s, "a", to, workload_name, &p), 0);
	assert_true(coord_plan_is_blocked(&p));
	json_t *o = coord_plan_json(&p);
	json = json_dumps(o, 0);
	if (!strstr(json, text))
		fail_msg("no \"%s\" in %s", text, json);
	free(json);
	json_decref(o);
	coord_plan_fini(&p);
	json_decref(s);
}

static json_t *with(const char *key, json_t *value, unsigned nr)
{
	json_t *s = world();

	json_object_set_new(host_of(s, nr), key, value);
	return s;
}

static json_t *with_volume(json_t *v, unsigned nr)
{
	json_t *s = world();

	json_array_append_new(json_object_get(json_object_get(host_of(s, nr), "facts"), "volumes"), v);
	return s;
}

static void test_what_stands_in_the_way_is_named(void **state)
{
	json_t *s = world();

	json_object_set_new(json_object_get(s, "busy"), "v1", json_string("it has a migration under way"));
	expect_blocked(s, "c", "w1", "migration under way");
	expect_blocked(world(), "a", "w1", "where it is already");
	expect_blocked(world(), "c", "w9", "no workload w9 is on host a");
	expect_blocked(world(), "nosuch", "w1", "no host is called nosuch");
	expect_blocked(with("is_up", json_false(), 2), "c", "w1", "does not answer");
	expect_blocked(with("is_up", json_false(), 0), "c", "w1", "does not answer");
	expect_blocked(with("cordon", json_string("by ops: disks"), 2), "c", "w1", "cordoned (by ops: disks)");
	expect_blocked(with("is_draining", json_true(), 2), "c", "w1", "being drained itself");
	expect_blocked(with_volume(volume("v1", 9, MIB, "local", 0), 1), "b", "w1", "another volume named v1");
	expect_blocked(with_volume(volume("v1", 1, 64 * MIB, "fenced", 2), 1), "b", "w1", "copy of an earlier move");
	expect_blocked(with_volume(volume("odd", 8, 5000, "local", 0), 0), "c", NULL, "no multiple of 4096");
	expect_blocked(with_volume(volume("in", 8, MIB, "cloning", 0), 0), "c", NULL, "still arriving");
	s = with("cordon", json_string("x"), 1);
	json_object_set_new(host_of(s, 2), "is_up", json_false());
	expect_blocked(s, NULL, "w1", "no host is there to take it");
}

static void test_what_has_left_is_not_moved(void **state)
{
	json_t *s = with_volume(volume("gone", 7, MIB, "retained", 4), 0);
	struct coord_plan p;

	assert_int_equal(coord_plan(s, "a", "c", NULL, &p), 0);
	assert_int_equal(p.nr_moves, 2);
	coord_plan_fini(&p);
	json_decref(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_host_with_the_most_room_is_chosen_and_room_is_counted),
		cmocka_unit_test(test_moves_stand_in_the_order_of_their_names),
		cmocka_unit_test(test_the_engine_is_what_the_destination_can_do),
		cmocka_unit_test(test_what_stands_in_the_way_is_named),
		cmocka_unit_test(test_what_has_left_is_not_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
