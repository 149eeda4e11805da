/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Worker threads: jobs go to them through a queue and come back to the loop through another.
 *
 * Owns. The threads, each with a coder and its scratch memory; an eventfd that tells the loop of what is done.
 *
 * Locks. lock: both queues and is_ending. A job is its worker's between the two queues and the loop's before and after; a worker touches
 * nothing else of the program's.
 */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kedge/bytes.h"
#include "kedge/file.h"

#define WORKERS_MAX 4u

struct worker {
	struct tgt_pool *pool;
	pthread_t thread;
	struct kedge_transit_coder *coder;
	void *scratch;
};

struct tgt_pool {
	/* set at creation */
	struct kedge_loop *loop;
	int event_fd;
	unsigned nr_workers; /* of those, started */
	struct worker workers[WORKERS_MAX];

	/* loop thread only */
	struct kedge_op op;
	uint64_t event;
	bool is_stopping;
	void (*stop_fn)(void *arg);
	void *stop_arg;

	/* protected by lock */
	pthread_mutex_t lock;
	pthread_cond_t has_work;
	struct tgt_job *todo, **todo_tail, *done, **done_tail;
	bool is_ending;
};

unsigned tgt_pool_nr_workers(void)
{
	cpu_set_t set;
	int nr = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;

	return nr < 1 ? 1 : (unsigned)nr > WORKERS_MAX ? WORKERS_MAX : (unsigned)nr;
}

static struct tgt_job *next_job(struct tgt_pool *p)
{
	struct tgt_job *job;

	pthread_mutex_lock(&p->lock);
	while (!p->todo && !p->is_ending)
		pthread_cond_wait(&p->has_work, &p->lock);
	job = p->todo;
	if (job) {
		p->todo = job->next;
		if (!p->todo)
			p->todo_tail = &p->todo;
	}
	pthread_mutex_unlock(&p->lock);
	return job;
}

static void give_back(struct tgt_pool *p, struct tgt_job *job)
{
	uint64_t one = 1;
	bool is_first;

	pthread_mutex_lock(&p->lock);
	is_first = !p->done;
	job->next = NULL;
	*p->done_tail = job;
	p->done_tail = &job->next;
	pthread_mutex_unlock(&p->lock);
	if (is_first) { /* the loop takes all of them at once */
		ssize_t n = write(p->event_fd, &one, sizeof one);
		(void)n; /* full: it has not looked yet */
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct tgt_job *job;

	while ((job = next_job(w->pool))) {
		job->work_fn(job, w->coder, w->scratch);
		give_back(w->pool, job);
	}
	return NULL;
}

static void arm(struct tgt_pool *p)
{
	kedge_op_read(p->loop, &p->op, p->event_fd, &p->event, sizeof p->event, 0);
}

static void event_cb(struct kedge_op *op, int res)
{
	struct tgt_pool *p = kedge_container_of(op, struct tgt_pool, op);
	struct tgt_job *done, *next;

	pthread_mutex_lock(&p->lock);
	done = p->done;
	p->done = NULL;
	p->done_tail = &p->done;
	pthread_mutex_unlock(&p->lock);
	if (!p->is_stopping)
		arm(p);
	for (struct tgt_job *job = done; job; job = next) {
		next = job->next;
		job->is_inflight = false;
		job->done_fn(job);
	}
	if (p->is_stopping)
		p->stop_fn(p->stop_arg);
}

void tgt_pool_submit(struct tgt_pool *p, struct tgt_job *job)
{
	job->is_inflight = true;
	job->next = NULL;
	pthread_mutex_lock(&p->lock);
	*p->todo_tail = job;
	p->todo_tail = &job->next;
	pthread_cond_signal(&p->has_work);
	pthread_mutex_unlock(&p->lock);
}

static int start_worker(struct tgt_pool *p, struct worker *w)
{
	sigset_t all, before;
	int r;

	w->pool = p;
	w->coder = kedge_transit_coder_create();
	w->scratch = malloc(TGT_SCRATCH_BYTES);
	if (!w->coder || !w->scratch)
		return -ENOMEM;
	/* signals are the loop's business */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static void free_worker(struct worker *w)
{
	kedge_transit_coder_destroy(w->coder);
	free(w->scratch);
}

int tgt_pool_create(struct kedge_loop *l, struct tgt_pool **ret_pool)
{
	struct tgt_pool *p = calloc(1, sizeof *p);
	unsigned nr_wanted = tgt_pool_nr_workers();
	int r = 0;

	if (!p)
		return -ENOMEM;
	p->loop = l;
	p->todo_tail = &p->todo;
	p->done_tail = &p->done;
	p->op.fn = event_cb;
	p->event_fd = eventfd(0, EFD_CLOEXEC);
	if (p->event_fd < 0) {
		r = -errno;
		free(p);
		return r;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->has_work, NULL);
	while (p->nr_workers < nr_wanted && r == 0) {
		r = start_worker(p, &p->workers[p->nr_workers]);
		if (r == 0)
			p->nr_workers++;
		else
			free_worker(&p->workers[p->nr_workers]);
	}
	if (p->nr_workers == 0) {
		tgt_pool_destroy(p);
		return r;
	}
	arm(p);
	*ret_pool = p;
	return 0;
}

void tgt_pool_stop(struct tgt_pool *p, void (*fn)(void *arg), void *arg)
{
	p->is_stopping = true;
	p->stop_fn = fn;
	p->stop_arg = arg;
	kedge_op_cancel(p->loop, &p->op);
}

void tgt_pool_destroy(struct tgt_pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->is_ending = true;
	pthread_cond_broadcast(&p->has_work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nr_workers; i++) {
		pthread_join(p->workers[i].thread, NULL);
		free_worker(&p->workers[i]);
	}
	pthread_cond_destroy(&p->has_work);
	pthread_mutex_destroy(&p->lock);
	kedge_close(p->event_fd);
	free(p);
}
