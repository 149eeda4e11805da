/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef TEST_COORD_SIM_H
#define TEST_COORD_SIM_H

/*
 * A small world for the coordinator's and the agents' pure cores: hosts, volumes, a network that drops, repeats, delays and cuts,
 * processes that die, hosts that reboot, clocks that jump. Everything comes from one seed. The cores are those that ship; what is modelled
 * here is what they stand on: records, jobs, messages. After each event the judge looks at the whole world.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "agent_core.h"
#include "coord_core.h"

#define NR_HOSTS 3
#define NR_VOLUMES 2
#define NR_COORDS 2 /* the second one is a rival with records of its own */
#define MIGRATIONS_MAX 24
#define RESULTS_MAX 64
#define NR_COPIES 2 /* of one message, at most */

struct world;

/* ---- time and chance (sim_world.c) ---- */
uint64_t world_random(struct world *w);
/* 0 to n - 1 */
unsigned world_below(struct world *w, unsigned n);
bool world_chance(struct world *w, unsigned percent);

enum event_kind {
	EVENT_REQUEST,	/* arrives at an agent */
	EVENT_REPLY,	/* arrives at a coordinator */
	EVENT_JOB,	/* an agent's job ends */
	EVENT_PATIENCE, /* an agent answers "running" to who waits */
	EVENT_TIMEOUT,	/* a coordinator gives an answer up */
	EVENT_TIMER,	/* of a flow */
	EVENT_WORK,	/* workloads write, agents look after what should run */
	EVENT_FAULT,
	EVENT_OPERATOR,
};

/* A message, or a note to oneself. */
struct event {
	uint64_t at_ms, order;
	enum event_kind kind;
	unsigned host, volume, coord;
	uint64_t life; /* of the process it was meant for: a dead one gets nothing */
	unsigned flow;
	uint64_t ask_nr, request;
	struct agent_request q;
	char to[KEDGE_NAME_MAX + 1];
	bool is_start;
	struct coord_answer answer;
};

void world_post(struct world *w, struct event *e, uint64_t delay_ms);

/* ---- agents (sim_agent.c) ---- */
struct result {
	struct kedge_uuid migration;
	uint64_t epoch;
	enum agent_step step;
	bool is_running; /* CHECK's */
};

/* One volume on one host. */
struct unit {
	/* durable */
	struct agent_record r;
	struct result results[RESULTS_MAX];
	unsigned nr_results;
	bool is_wanted;
	bool has_copy;	     /* data is here */
	bool is_whole;	     /* all of it */
	uint64_t version;    /* the last write that is in this copy; a clone that is not whole reads the rest from its source */
	unsigned clone_of;   /* host; of a copy that is not whole */
	/* processes */
	bool is_running;     /* the workload */
	bool is_exported;
	/* the agent's */
	bool has_job;
	struct event job;    /* the request that is being done */
	bool is_waiting;     /* somebody waits for the job */
	struct event waiter;
};

struct host {
	bool is_alive; /* the agent */
	uint64_t life;
	uint64_t cut_until_ms[NR_HOSTS + NR_COORDS]; /* no messages to and from there */
	struct unit units[NR_VOLUMES];
};

void agent_on_request(struct world *w, struct event *e);
void agent_on_job(struct world *w, struct event *e);
void agent_on_patience(struct world *w, struct event *e);
/* Starts what should run, writes by what runs. */
void agent_work(struct world *w, unsigned host);
void agent_die(struct world *w, unsigned host, bool is_reboot);

/* ---- coordinators (sim_coord.c) ---- */
struct flow {
	struct coord_flow f;
	struct coord_migration durable; /* survives a power cut */
	struct coord_migration visible; /* survives a death of the process */
	struct coord_todo todo;
	unsigned volume;
	bool is_used;
	uint64_t request;
};

struct coord {
	bool is_alive;
	uint64_t life;
	int64_t clock_ms; /* its clock's error */
	struct flow flows[MIGRATIONS_MAX];
	unsigned nr_flows;
};

void coord_start_migration(struct world *w, unsigned coord, unsigned volume, unsigned from, unsigned to);
void coord_on_reply(struct world *w, struct event *e);
void coord_on_timeout(struct world *w, struct event *e);
void coord_on_timer(struct world *w, struct event *e);
void coord_abort(struct world *w, unsigned coord, unsigned flow);
void coord_die(struct world *w, unsigned coord, bool is_power_cut);
void coord_restart(struct world *w, unsigned coord);
bool coord_has_open_flow(const struct world *w, unsigned coord, unsigned volume);

/* ---- the world ---- */
struct world {
	uint64_t seed, state;
	uint64_t now_ms, order;
	struct event *events; /* a heap */
	size_t nr_events, max_events;
	bool is_calm;	      /* no more faults */
	struct host hosts[NR_HOSTS];
	struct coord coords[NR_COORDS];
	uint64_t acked[NR_VOLUMES]; /* the last write that was acknowledged */
	bool wants_run[NR_VOLUMES];
	uint64_t next_id;
	/* counts, for people */
	uint64_t nr_steps, nr_deaths, nr_cuts, nr_aborts, nr_done, nr_aborted, nr_writes, nr_starts;
	char failure[512];
};

extern const char *const host_names[NR_HOSTS];
int host_by_name(const char *name);
void world_fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Is a message between these two lost to a cut? Hosts are 0 to NR_HOSTS - 1, coordinators follow. */
bool world_is_cut(const struct world *w, unsigned a, unsigned b);
/* One seed to its end. trace: print events. */
void world_run(struct world *w, uint64_t seed, bool trace);
extern bool world_trace;

#endif
