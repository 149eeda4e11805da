/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. The server: listens, limits what has not logged in, keeps the sessions and the budget of read buffers.
 *
 * Owns. The listening socket, the LUNs, the connections, the policy's copies. Locks. None: one thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conn.h"
#include "inquiry.h"
#include "kedge/disk.h"
#include "kedge/file.h"
#include "kedge/log.h"
#include "kedge/name.h"
#include "kedge/uuid.h"

#define HALF_OPEN_MAX 16
#define HALF_OPEN_PER_ADDRESS_MAX 4
#define BUFFER_BUDGET_BYTES (64u << 20)
#define FREE_BUFFERS_MAX 16u

struct tgt_server {
	struct kedge_loop *loop;
	int listen_fd;
	struct kedge_op accept;
	struct kedge_timer accept_timer;
	char portal[80];
	struct tgt_policy policy;
	struct kedge_chap chap;
	char iqn[TGT_NAME_MAX], initiator_iqn[TGT_NAME_MAX];
	struct tgt_lun luns[TGT_LUNS_MAX];
	unsigned nr_luns, nr_sessions_max;
	struct tgt_conn *conns;
	uint16_t tsih;
	uint64_t buffer_bytes;
	void *free_buffers[FREE_BUFFERS_MAX]; /* of TGT_IO_MAX_BYTES */
	unsigned nr_free_buffers;
	struct tgt_cmd *wait_head, **wait_tail;
	struct kedge_defer wake;
	struct tgt_pool *pool; /* from the first READ EXTENT on: nobody who has not logged in starts threads */
	bool is_stopping, is_pool_stopped;
	void (*stop_fn)(void *arg);
	void *stop_arg;
	struct kedge_defer stop_defer;
};

struct kedge_loop *tgt_server_loop(struct tgt_server *s)
{
	return s->loop;
}

const struct tgt_policy *tgt_server_policy(struct tgt_server *s)
{
	return &s->policy;
}

struct tgt_lun *tgt_server_lun(struct tgt_server *s, uint32_t lun)
{
	return lun >= 1 && lun <= s->nr_luns ? &s->luns[lun - 1] : NULL;
}

unsigned tgt_server_nr_luns(const struct tgt_server *s)
{
	return s->nr_luns;
}

const char *tgt_server_portal(const struct tgt_server *s)
{
	return s->portal;
}

uint64_t tgt_server_left_out_bytes(const struct tgt_server *s)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < s->nr_luns; i++)
		n += tgt_ranges_total_bytes(&s->luns[i].free.ranges);
	return n;
}

uint16_t tgt_server_next_tsih(struct tgt_server *s)
{
	if (++s->tsih == 0)
		s->tsih = 1;
	return s->tsih;
}

struct tgt_pool *tgt_server_pool(struct tgt_server *s)
{
	int r = s->pool ? 0 : tgt_pool_create(s->loop, &s->pool);

	if (r < 0)
		kedge_error("no threads for extents: %s", kedge_err_text(r));
	return s->pool;
}

/* ---- buffers ---- */

bool tgt_server_get_buffer(struct tgt_server *s, struct tgt_cmd *cmd, uint32_t nr_bytes)
{
	/* FIFO: nobody overtakes those who wait */
	bool has_room = s->buffer_bytes + nr_bytes <= BUFFER_BUDGET_BYTES && (!s->wait_head || s->wait_head == cmd);

	if (has_room) {
		if (nr_bytes > TGT_IO_MAX_BYTES / 2 && s->nr_free_buffers)
			cmd->buf = s->free_buffers[--s->nr_free_buffers];
		else
			cmd->buf = kedge_buf_alloc(nr_bytes > TGT_IO_MAX_BYTES / 2 ? TGT_IO_MAX_BYTES : nr_bytes);
	}
	if (cmd->buf) {
		cmd->buf_bytes = nr_bytes;
		s->buffer_bytes += nr_bytes;
		return true;
	}
	if (s->wait_head != cmd) {
		cmd->wait_next = NULL;
		*s->wait_tail = cmd;
		s->wait_tail = &cmd->wait_next;
	}
	return false;
}

static void wake_cb(void *arg)
{
	struct tgt_server *s = arg;

	while (s->wait_head) {
		struct tgt_cmd *cmd = s->wait_head;
		if (cmd->extent_bytes)
			tgt_extent_read(cmd);
		else
			tgt_full_read_into_buffer(cmd);
		if (!cmd->buf)
			return; /* still no room */
		tgt_server_forget_waiting(s, cmd);
	}
}

void tgt_server_put_buffer(struct tgt_server *s, struct tgt_cmd *cmd)
{
	s->buffer_bytes -= cmd->buf_bytes;
	if (cmd->buf_bytes > TGT_IO_MAX_BYTES / 2 && s->nr_free_buffers < FREE_BUFFERS_MAX)
		s->free_buffers[s->nr_free_buffers++] = cmd->buf;
	else
		kedge_buf_free(cmd->buf);
	cmd->buf = NULL;
	cmd->buf_bytes = 0;
	if (s->wait_head && !s->wake.is_queued) {
		s->wake = (struct kedge_defer){.fn = wake_cb, .arg = s};
		kedge_loop_defer(s->loop, &s->wake);
	}
}

void tgt_server_forget_waiting(struct tgt_server *s, struct tgt_cmd *cmd)
{
	for (struct tgt_cmd **p = &s->wait_head; *p; p = &(*p)->wait_next) {
		if (*p != cmd)
			continue;
		*p = cmd->wait_next;
		if (s->wait_tail == &cmd->wait_next)
			s->wait_tail = p;
		return;
	}
}

/* ---- sessions ---- */

bool tgt_server_admit(struct tgt_server *s, struct tgt_conn *c)
{
	unsigned nr_sessions = 0;
	struct tgt_conn *next;

	for (struct tgt_conn *o = s->conns; o; o = next) {
		next = o->next;
		if (o == c || !o->is_full || o->is_gone)
			continue;
		/* reinstatement (RFC 7143 6.3.5): the same initiator port comes back, its old session is dead */
		if (strcmp(o->initiator, c->initiator) == 0 && memcmp(o->isid, c->isid, 6) == 0)
			tgt_conn_drop(o, "its session is reinstated");
		else
			nr_sessions++;
	}
	return nr_sessions < s->nr_sessions_max;
}

static void check_stopped(struct tgt_server *s);
static void arm_accept(struct tgt_server *s);

void tgt_server_conn_gone(struct tgt_server *s, struct tgt_conn *c)
{
	struct tgt_conn **p = &s->conns;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	check_stopped(s);
}

static bool is_same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr == ((const struct sockaddr_in *)b)->sin_addr.s_addr;
	return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr, 16) == 0;
}

/* Room for one more that has not logged in? The oldest of the same address makes room: a flood from one address is its own
 * problem, and a login that is not slow is never the oldest. */
static void make_room(struct tgt_server *s, const struct sockaddr_storage *peer)
{
	struct tgt_conn *oldest = NULL, *oldest_same = NULL;
	unsigned n = 0, nr_same = 0;

	for (struct tgt_conn *o = s->conns; o; o = o->next) { /* newest first */
		if (o->is_full || o->is_gone)
			continue;
		n++;
		oldest = o;
		if (is_same_address(&o->peer, peer)) {
			nr_same++;
			oldest_same = o;
		}
	}
	if (nr_same >= HALF_OPEN_PER_ADDRESS_MAX)
		tgt_conn_drop(oldest_same, "too many logins under way from its address");
	else if (n >= HALF_OPEN_MAX)
		tgt_conn_drop(oldest, "too many logins under way");
}

static void accept_timer_cb(struct kedge_timer *t)
{
	arm_accept(kedge_container_of(t, struct tgt_server, accept_timer));
}

static void accept_cb(struct kedge_op *op, int res)
{
	struct tgt_server *s = kedge_container_of(op, struct tgt_server, accept);
	struct sockaddr_storage peer = {0};
	socklen_t n = sizeof peer;
	struct tgt_conn *c;

	if (s->is_stopping) {
		if (res >= 0)
			kedge_close(res);
		check_stopped(s);
		return;
	}
	if (res == -EMFILE || res == -ENFILE || res == -ENOMEM || res == -ENOBUFS) {
		s->accept_timer.fn = accept_timer_cb; /* the connection waits in the backlog; do not spin */
		kedge_timer_start(s->loop, &s->accept_timer, 100);
		return;
	}
	if (res >= 0 && getpeername(res, (struct sockaddr *)&peer, &n) == 0) {
		make_room(s, &peer);
		if (tgt_conn_create(s, res, &peer, &c) < 0) {
			kedge_close(res);
		} else {
			c->next = s->conns;
			s->conns = c;
		}
	} else if (res >= 0) {
		kedge_close(res);
	}
	arm_accept(s);
}

static void arm_accept(struct tgt_server *s)
{
	if (!s->is_stopping && !s->accept.is_inflight)
		kedge_op_accept(s->loop, &s->accept, s->listen_fd);
}

/* ---- set-up ---- */

static bool is_private4(uint32_t a)
{
	return a >> 24 == 10 || a >> 24 == 127 || a >> 20 == 0xac1 || a >> 16 == 0xc0a8 || a >> 16 == 0xa9fe || a >> 22 == (0x64400000u >> 22);
}

static bool is_private6(const uint8_t a[16])
{
	static const uint8_t loopback[16] = {[15] = 1};

	return (a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || memcmp(a, loopback, 16) == 0;
}

static int parse_portal(const char *portal, struct sockaddr_storage *sa, socklen_t *ret_bytes, struct kedge_err *err)
{
	const char *colon = strrchr(portal, ':');
	char host[64];
	size_t n = colon ? (size_t)(colon - portal) : 0;
	unsigned long port;
	char *end;

	if (!colon || n == 0 || n >= sizeof host || !colon[1])
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--portal %s: expected ADDR:PORT", portal);
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > 65535)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--portal %s: not a port", portal);
	memcpy(host, portal, n);
	host[n] = 0;
	memset(sa, 0, sizeof *sa);
	struct sockaddr_in *in4 = (struct sockaddr_in *)sa;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)sa;
	if (host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = 0;
		if (inet_pton(AF_INET6, host + 1, &in6->sin6_addr) != 1)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--portal %s: not a numeric address", portal);
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		*ret_bytes = sizeof *in6;
	} else {
		if (inet_pton(AF_INET, host, &in4->sin_addr) != 1)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--portal %s: not a numeric address", portal);
		in4->sin_family = AF_INET;
		in4->sin_port = htons((uint16_t)port);
		*ret_bytes = sizeof *in4;
	}
	if (sa->ss_family == AF_INET ? !is_private4(ntohl(in4->sin_addr.s_addr)) : !is_private6(in6->sin6_addr.s6_addr))
		return kedge_err_set(err, KEDGE_E_AUTH, KEDGE_SIDE_NONE,
				     "--portal %s: not a private address; iSCSI is not encrypted, so ktarget does not bind there", portal);
	return 0;
}

static void name_portal(struct tgt_server *s)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof sa;
	char host[INET6_ADDRSTRLEN];

	getsockname(s->listen_fd, (struct sockaddr *)&sa, &n);
	if (sa.ss_family == AF_INET) {
		struct sockaddr_in *in4 = (struct sockaddr_in *)&sa;
		inet_ntop(AF_INET, &in4->sin_addr, host, sizeof host);
		snprintf(s->portal, sizeof s->portal, "%s:%u", host, ntohs(in4->sin_port));
	} else {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&sa;
		inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		snprintf(s->portal, sizeof s->portal, "[%s]:%u", host, ntohs(in6->sin6_port));
	}
}

static int start_listening(struct tgt_server *s, const char *portal, struct kedge_err *err)
{
	struct sockaddr_storage sa;
	socklen_t n = 0;
	int one = 1, r = parse_portal(portal, &sa, &n, err);

	if (r < 0)
		return r;
	s->listen_fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->listen_fd < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot make a socket: %s", strerror(errno));
	setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s->listen_fd, (struct sockaddr *)&sa, n) < 0 || listen(s->listen_fd, 64) < 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_NONE, "cannot listen on %s: %s", portal, strerror(errno));
	name_portal(s);
	arm_accept(s);
	return 0;
}

static int take_names(struct tgt_server *s, const struct tgt_opts *o, struct kedge_err *err)
{
	if (!kedge_iqn_is_valid(o->iqn))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--iqn %s: not an iSCSI name (iqn.yyyy-mm.domain:text)", o->iqn);
	if (o->initiator_iqn && !kedge_iqn_is_valid(o->initiator_iqn))
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--initiator %s: not an iSCSI name", o->initiator_iqn);
	strcpy(s->iqn, o->iqn);
	s->policy.iqn = s->iqn;
	if (o->initiator_iqn) {
		strcpy(s->initiator_iqn, o->initiator_iqn);
		s->policy.initiator_iqn = s->initiator_iqn;
	}
	if (o->chap) {
		s->chap = *o->chap;
		s->policy.chap = &s->chap;
	}
	if (o->nr_luns == 0 || o->nr_luns > TGT_LUNS_MAX)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "1 to %d --lun are needed", TGT_LUNS_MAX);
	return 0;
}

/* Initiators take units with one serial number for one disk that is reached over two ways. */
static int check_serials(const struct tgt_server *s, struct kedge_err *err)
{
	for (unsigned i = 0; i < s->nr_luns; i++)
		for (unsigned j = 0; j < i; j++)
			if (strcmp(s->luns[i].unit.serial, s->luns[j].unit.serial) == 0 && strcmp(s->luns[i].path, s->luns[j].path) != 0)
				return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "--serial %s: given to %s and to %s", s->luns[i].unit.serial,
						     s->luns[j].path, s->luns[i].path);
	return 0;
}

int tgt_server_create(struct kedge_loop *l, const struct tgt_opts *o, struct tgt_server **ret_s, struct kedge_err *err)
{
	struct tgt_server *s = calloc(1, sizeof *s);
	int r;

	if (!s)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_NONE, "no memory");
	s->loop = l;
	s->listen_fd = -1;
	s->accept.fn = accept_cb;
	s->wait_tail = &s->wait_head;
	s->nr_sessions_max = o->nr_sessions_max ? o->nr_sessions_max : 16;
	kedge_random(&s->tsih, sizeof s->tsih);
	r = take_names(s, o, err);
	for (unsigned i = 0; i < o->nr_luns && r == 0; i++) {
		r = tgt_lun_open(&s->luns[i], o->lun_paths[i], o->serials[i], err);
		if (r == 0)
			s->nr_luns++;
		if (r == 0)
			r = tgt_lun_take_free(&s->luns[i], o->free_space, err);
	}
	if (r == 0)
		r = check_serials(s, err);
	if (r == 0)
		r = start_listening(s, o->portal, err);
	if (r < 0) {
		tgt_server_destroy(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

static void stopped_cb(void *arg)
{
	struct tgt_server *s = arg;

	s->stop_fn(s->stop_arg);
}

static void pool_stopped_cb(void *arg)
{
	struct tgt_server *s = arg;

	s->is_pool_stopped = true;
	check_stopped(s);
}

static void check_stopped(struct tgt_server *s)
{
	if (!s->is_stopping || s->conns || s->accept.is_inflight || s->stop_defer.is_queued)
		return;
	if (s->pool && !s->is_pool_stopped) { /* without connections it has nothing to do */
		tgt_pool_stop(s->pool, pool_stopped_cb, s);
		return;
	}
	s->stop_defer = (struct kedge_defer){.fn = stopped_cb, .arg = s};
	kedge_loop_defer(s->loop, &s->stop_defer);
}

void tgt_server_stop(struct tgt_server *s, void (*fn)(void *arg), void *arg)
{
	struct tgt_conn *next;

	s->is_stopping = true;
	s->stop_fn = fn;
	s->stop_arg = arg;
	kedge_timer_stop(s->loop, &s->accept_timer);
	kedge_op_cancel(s->loop, &s->accept);
	for (struct tgt_conn *c = s->conns; c; c = next) {
		next = c->next;
		tgt_conn_drop(c, NULL);
	}
	check_stopped(s);
}

void tgt_server_destroy(struct tgt_server *s)
{
	if (!s)
		return;
	tgt_pool_destroy(s->pool);
	for (unsigned i = 0; i < s->nr_luns; i++)
		tgt_lun_close(&s->luns[i]);
	for (unsigned i = 0; i < s->nr_free_buffers; i++)
		kedge_buf_free(s->free_buffers[i]);
	kedge_defer_remove(kedge_loop_defer_queue(s->loop), &s->wake);
	kedge_close(s->listen_fd);
	kedge_chap_fini(&s->chap);
	free(s);
}
