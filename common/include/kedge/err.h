/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_ERR_H
#define KEDGE_ERR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/*
 * Return values are 0 or negative. Negative errno values stand for themselves;
 * the values below (-10000 and under) are kedge's own. Policy decides on the
 * class, never on the text.
 *
 * X(name, value, class, text)
 */
#define KEDGE_ERR_TABLE(X)                                                                  \
	X(META_MISSING, -10001, PERMANENT, "metadata is missing")                           \
	X(META_ZEROED, -10002, PERMANENT, "metadata is all zeroes")                         \
	X(META_FOREIGN, -10003, PERMANENT, "metadata belongs to another clone")             \
	X(META_OLD, -10004, PERMANENT, "metadata is an older copy")                         \
	X(META_CORRUPT, -10005, PERMANENT, "metadata is damaged")                           \
	X(META_VERSION, -10006, PERMANENT, "metadata has a version or flag not known here") \
	X(META_EXISTS, -10007, OPERATOR, "metadata exists already")                         \
	X(META_BUSY, -10008, OPERATOR, "metadata is in use by another process")             \
	X(SOURCE_IDENTITY, -10020, PERMANENT, "the source is not the volume expected")      \
	X(SOURCE_AWAY, -10021, TRANSIENT, "the source does not answer")                     \
	X(SOURCE_MEDIUM, -10022, PERMANENT, "the source cannot read this range")            \
	X(SOURCE_AUTH, -10023, OPERATOR, "the source refused the login")                    \
	X(SOURCE_DAMAGED, -10024, PERMANENT, "what arrives is not what the source sent")     \
	X(DEST_IDENTITY, -10030, PERMANENT, "the destination is not the one of this clone") \
	X(DEST_SIZE, -10031, OPERATOR, "the destination is too small")                      \
	X(FAILED, -10040, PERMANENT, "the clone has failed and stopped")                    \
	X(WRITTEN, -10041, OPERATOR, "the clone holds writes that an abort would lose")     \
	X(NOT_HYDRATED, -10042, OPERATOR, "the clone is not hydrated")                      \
	X(VERIFY, -10043, PERMANENT, "a block differs from the source")                     \
	X(STATE, -10044, OPERATOR, "not possible in this state")                            \
	X(STALE_EPOCH, -10060, PERMANENT, "the epoch is stale")                             \
	X(FENCED, -10061, OPERATOR, "the volume is fenced on this host")                    \
	X(BUSY_VOLUME, -10062, OPERATOR, "the volume has a migration under way")            \
	X(NO_ROOM, -10063, OPERATOR, "not enough room on the destination")                  \
	X(STILL_OPEN, -10064, OPERATOR, "the device is still open")                         \
	X(UNREACHABLE, -10065, TRANSIENT, "the host does not answer")                       \
	X(AUTH, -10066, OPERATOR, "authentication failed")                                  \
	X(PROTO, -10067, PERMANENT, "the peer does not speak this protocol")                \
	X(BUG, -10099, BUG, "an inconsistency inside kedge")

enum kedge_err_code {
#define X(name, value, class, text) KEDGE_E_##name = (value),
	KEDGE_ERR_TABLE(X)
#undef X
};

enum kedge_err_class {
	KEDGE_CLASS_TRANSIENT, /* try again later */
	KEDGE_CLASS_OPERATOR,  /* a person must change something */
	KEDGE_CLASS_PERMANENT, /* will not get better */
	KEDGE_CLASS_BUG,
};

enum kedge_side {
	KEDGE_SIDE_NONE,
	KEDGE_SIDE_SOURCE,
	KEDGE_SIDE_DESTINATION,
	KEDGE_SIDE_METADATA,
	KEDGE_SIDE_CONTROL,
};

#define KEDGE_ERR_MSG_MAX 320

/* By value, fixed size, no heap. The first error wins. */
struct kedge_err {
	int code; /* 0: nothing happened yet */
	enum kedge_side side;
	char msg[KEDGE_ERR_MSG_MAX];
};

/* Record an error unless one is recorded already; err may be NULL. Returns code, so that
 * "return kedge_err_set(err, -EINVAL, side, "...")" works. */
int kedge_err_set(struct kedge_err *err, int code, enum kedge_side side, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* Put "prefix: " before the message of a recorded error. */
void kedge_err_prefix(struct kedge_err *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Text of a code, ours or errno's. Never NULL; static storage. */
const char *kedge_err_text(int code);
/* Short stable name for programs: "META_ZEROED", "EIO", "E123". Static storage for known codes. */
const char *kedge_err_name(int code);
/* The code of a name as printed by kedge_err_name, or -EIO when it is not known. */
int kedge_err_by_name(const char *name);
enum kedge_err_class kedge_err_class_of(int code);
const char *kedge_err_class_name(enum kedge_err_class class);
const char *kedge_side_name(enum kedge_side side);

/* Exit codes of every program (docs/formats.md, "Exit codes"). */
enum kedge_exit {
	KEDGE_EXIT_OK = 0,
	KEDGE_EXIT_FAILED = 1,
	KEDGE_EXIT_USAGE = 2,
	KEDGE_EXIT_NOT_FOUND = 3,
	KEDGE_EXIT_BLOCKED = 4,
	KEDGE_EXIT_CHANGED = 5,
	KEDGE_EXIT_DEADLINE = 6,
	KEDGE_EXIT_PARTLY = 7,
	KEDGE_EXIT_UNREACHABLE = 8,
	KEDGE_EXIT_REFUSED = 9,
	/* the data plane's own refusals, one each */
	KEDGE_EXIT_META_MISSING = 20,
	KEDGE_EXIT_META_ZEROED = 21,
	KEDGE_EXIT_META_FOREIGN = 22,
	KEDGE_EXIT_META_OLD = 23,
	KEDGE_EXIT_META_CORRUPT = 24,
	KEDGE_EXIT_META_VERSION = 25,
	KEDGE_EXIT_META_EXISTS = 26,
	KEDGE_EXIT_META_BUSY = 27,
	KEDGE_EXIT_SOURCE_IDENTITY = 30,
	KEDGE_EXIT_SOURCE_AWAY = 31,
	KEDGE_EXIT_SOURCE_AUTH = 32,
	KEDGE_EXIT_DEST_IDENTITY = 33,
	KEDGE_EXIT_DEST_SIZE = 34,
	KEDGE_EXIT_VERIFY = 35,
	KEDGE_EXIT_DETACHED = 130,
};

/* The exit code for an error code. */
enum kedge_exit kedge_exit_of(int code);

/* Stays on in release builds: prints and aborts. For inconsistencies after which going on could lose data. */
#define kedge_assert(cond) ((cond) ? (void)0 : kedge_assert_fail(#cond, __FILE__, __LINE__))
_Noreturn void kedge_assert_fail(const char *cond, const char *file, int line);

#endif
