/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KCOPY_ISCSI_SOURCE_H
#define KCOPY_ISCSI_SOURCE_H

/* Inside of the iSCSI source: sessions (iscsi_session.c) carry the parts that requests are split into (iscsi_source.c). */

#include "kcopy/kcopy.h"

#include "backoff.h"
#include "conn.h"
#include "kcopy/scsi_reply.h"
#include "kcopy/url.h"
#include "timeouts.h"
#include "transit.h"

#define KCOPY_SESSIONS_MAX 16
/* Commands in flight in one session, and how many of these places background reads leave to foreground ones. */
#define KCOPY_SLOTS 20
#define KCOPY_SLOTS_KEPT 4
/* So long after the last foreground read one session is kept for them: on another's connection they wait behind megabytes. */
#define KCOPY_DEMAND_MS 1000

struct kcopy_isource;
struct kcopy_isession;

enum kcopy_request_kind { KCOPY_REQUEST_READ, KCOPY_REQUEST_EXTENTS, KCOPY_REQUEST_SUMS };

struct kcopy_request {
	struct kedge_source_io *io;
	enum kcopy_request_kind kind;
	enum kedge_prio prio;
	uint64_t next_bytes;  /* up to here it has been split up */
	unsigned nr_parts;    /* in flight or in a retry queue */
	unsigned nr_inflight; /* of those */
	int res;
	bool is_queued, is_done;
	struct kedge_timer timer;
	struct kcopy_isource *src;
	struct kcopy_request *next_queued, *next_done;
	struct kcopy_request *next, *prev; /* all */
};

/* One SCSI command's worth of a request. */
struct kcopy_part {
	struct kcopy_cmd cmd;
	struct kcopy_request *req;
	struct kcopy_isession *session; /* while in flight */
	unsigned slot;
	uint64_t start_bytes;
	uint32_t nr_bytes;
	unsigned nr_tries, nr_attentions;
	/* of a read, since it was sent last */
	bool is_extent, is_chosen;
	uint8_t codecs;
	uint64_t pack_ns;
	uint8_t head[KEDGE_TRANSIT_HEAD_BYTES];
	uint64_t sent_ns;
	struct kcopy_part *next; /* in a retry queue or the free list */
};

enum kcopy_session_state {
	KCOPY_SESSION_IDLE,
	KCOPY_SESSION_CONNECTING,  /* TCP and login */
	KCOPY_SESSION_IDENTIFYING, /* logged in; who is this? */
	KCOPY_SESSION_UP,
	KCOPY_SESSION_WAITING,     /* backoff */
	KCOPY_SESSION_LEAVING,     /* logout sent */
};

struct kcopy_isession {
	struct kcopy_isource *src;
	unsigned nr; /* place in the source's array: the ISID's qualifier */
	enum kcopy_session_state state;
	struct kcopy_conn *conn; /* CONNECTING, IDENTIFYING, UP, LEAVING */
	bool was_up;
	struct kcopy_backoff backoff;
	struct kedge_timer deadline; /* login, logout, backoff: one at a time */
	struct kedge_timer watch;    /* UP: silence and NOPs */

	struct kcopy_part *slots[KCOPY_SLOTS];
	unsigned nr_inflight;
	uint64_t inflight_bytes;

	/* identification */
	struct kcopy_cmd probe;
	unsigned step, nr_probe_tries;
	struct kedge_identity found;
	struct kcopy_capacity capacity;
	char usn[KCOPY_USN_MAX];
	uint32_t max_transfer_blocks;
	struct kedge_transit_offer offer; /* all 0: none */

	struct kcopy_cmd nop;
	bool is_nop_inflight;
	uint64_t nop_sent_ns;
};

struct kcopy_isource {
	struct kedge_source base;
	struct kedge_loop *loop;
	struct kcopy_url url;
	struct kedge_chap chap;
	bool has_chap;
	char initiator_iqn[KEDGE_IQN_MAX + 1];
	struct kcopy_timeouts timeouts;
	uint32_t isid;

	struct kcopy_isession sessions[KCOPY_SESSIONS_MAX];
	unsigned nr_sessions;
	unsigned nr_conns; /* not yet gone from the loop */

	enum kedge_source_state state;
	uint64_t since_ns;
	bool is_state_told;
	struct kedge_defer tell;
	uint64_t read_bytes, nr_reconnects;
	struct kedge_err last_err;

	/* learned at the first login, required from then on */
	bool has_learned;
	char usn[KCOPY_USN_MAX];
	bool is_usn_required;
	uint32_t max_cmd_bytes;
	bool can_lba_status;
	struct kcopy_transit transit;

	/* index: enum kedge_prio */
	struct kcopy_request *queue_head[2], **queue_tail[2]; /* not yet split up */
	struct kcopy_part *retry[2];
	struct kcopy_part *later; /* to be tried again when the timer fires */
	struct kedge_timer later_timer;
	struct kcopy_request *done_head, **done_tail;
	struct kedge_defer done;
	struct kcopy_request *all; /* doubly linked: every request not yet answered */
	struct kcopy_request *free_requests;
	uint64_t demand_ns; /* when a foreground read came last; 0: never */
	struct kcopy_part *free_parts;

	bool is_started, is_closing, is_closed_told;
	void (*closed_fn)(void *arg);
	void *closed_arg;
};

/* iscsi_session.c */
void kcopy_isession_init(struct kcopy_isession *s, struct kcopy_isource *src, unsigned nr);
void kcopy_isession_start(struct kcopy_isession *s);
/* End the connection now; parts in flight come back as LOST inside this call. Reconnects after the backoff. */
void kcopy_isession_fail(struct kcopy_isession *s, int code, const char *why);
/* End it for good, with a logout when nothing is in flight. */
void kcopy_isession_stop(struct kcopy_isession *s);
/* A read was answered well: the backoff begins anew. */
void kcopy_isession_succeeded(struct kcopy_isession *s);

/* iscsi_source.c, called by sessions */
/* A session has logged in and found who it talks to. 0, or the source is REFUSED now. */
int kcopy_isource_check_identity(struct kcopy_isource *src, const struct kcopy_isession *s);
/* Never again: every request, now and later, ends with code. */
void kcopy_isource_refuse(struct kcopy_isource *src, int code, const struct kedge_err *err);
void kcopy_isource_note(struct kcopy_isource *src, int code, const char *why);
/* The number of sessions that are UP may have changed. */
void kcopy_isource_sessions_changed(struct kcopy_isource *src);
void kcopy_isource_conn_gone(struct kcopy_isource *src);
/* closed_fn, once everything is answered and no connection is left. */
void kcopy_isource_close_on(struct kcopy_isource *src);

/* iscsi_requests.c */
void kcopy_requests_init(struct kcopy_isource *src);
void kcopy_requests_fini(struct kcopy_isource *src);
void kcopy_requests_submit(struct kcopy_isource *src, struct kedge_source_io *io, enum kcopy_request_kind kind);
void kcopy_requests_cancel(struct kcopy_isource *src, struct kedge_source_io *io);
void kcopy_requests_urge(struct kcopy_isource *src, struct kedge_source_io *io);
/* Give free places in sessions to what waits. */
void kcopy_requests_dispatch(struct kcopy_isource *src);
void kcopy_requests_fail_all(struct kcopy_isource *src, int code, const char *msg);
/* Has the request of this part failed or been cancelled, so that only the end of the part is waited for? */
bool kcopy_part_is_abandoned(const struct kcopy_part *p);

#endif
