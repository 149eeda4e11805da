/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Error values: recording, texts, classes, exit codes. Pure.
 */
#include "kedge/err.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
	int code;
	const char *name, *text;
	enum kedge_err_class class;
};

static const struct row own_rows[] = {
#define X(name, value, class, text) {(value), #name, (text), KEDGE_CLASS_##class},
	KEDGE_ERR_TABLE(X)
#undef X
};

/* The errno values that travel by name between our processes, with their class. */
static const struct row errno_rows[] = {
	{-EIO, "EIO", "input/output error", KEDGE_CLASS_PERMANENT},
	{-ENOSPC, "ENOSPC", "no space left", KEDGE_CLASS_OPERATOR},
	{-EDQUOT, "EDQUOT", "quota exceeded", KEDGE_CLASS_OPERATOR},
	{-EINVAL, "EINVAL", "invalid argument", KEDGE_CLASS_PERMANENT},
	{-ENOENT, "ENOENT", "no such file or object", KEDGE_CLASS_OPERATOR},
	{-EEXIST, "EEXIST", "exists already", KEDGE_CLASS_OPERATOR},
	{-EACCES, "EACCES", "permission denied", KEDGE_CLASS_OPERATOR},
	{-EPERM, "EPERM", "operation not permitted", KEDGE_CLASS_OPERATOR},
	{-EBUSY, "EBUSY", "busy", KEDGE_CLASS_TRANSIENT},
	{-EAGAIN, "EAGAIN", "try again", KEDGE_CLASS_TRANSIENT},
	{-EINTR, "EINTR", "interrupted", KEDGE_CLASS_TRANSIENT},
	{-ENOMEM, "ENOMEM", "out of memory", KEDGE_CLASS_TRANSIENT},
	{-ETIMEDOUT, "ETIMEDOUT", "timed out", KEDGE_CLASS_TRANSIENT},
	{-ECANCELED, "ECANCELED", "cancelled", KEDGE_CLASS_TRANSIENT},
	{-ECONNREFUSED, "ECONNREFUSED", "connection refused", KEDGE_CLASS_TRANSIENT},
	{-ECONNRESET, "ECONNRESET", "connection reset", KEDGE_CLASS_TRANSIENT},
	{-EPIPE, "EPIPE", "broken pipe", KEDGE_CLASS_TRANSIENT},
	{-EHOSTUNREACH, "EHOSTUNREACH", "no route to host", KEDGE_CLASS_TRANSIENT},
	{-ENETUNREACH, "ENETUNREACH", "network is unreachable", KEDGE_CLASS_TRANSIENT},
	{-EADDRINUSE, "EADDRINUSE", "address in use", KEDGE_CLASS_OPERATOR},
	{-EADDRNOTAVAIL, "EADDRNOTAVAIL", "address not available", KEDGE_CLASS_OPERATOR},
	{-ENOTBLK, "ENOTBLK", "neither a regular file nor a block device", KEDGE_CLASS_OPERATOR},
	{-EROFS, "EROFS", "read-only", KEDGE_CLASS_OPERATOR},
	{-EFBIG, "EFBIG", "too big", KEDGE_CLASS_OPERATOR},
	{-ERANGE, "ERANGE", "out of range", KEDGE_CLASS_OPERATOR},
	{-EPROTO, "EPROTO", "protocol error", KEDGE_CLASS_PERMANENT},
	{-EBADMSG, "EBADMSG", "malformed message", KEDGE_CLASS_PERMANENT},
	{-ENODATA, "ENODATA", "no data", KEDGE_CLASS_PERMANENT},
	{-ENOTSUP, "ENOTSUP", "not supported", KEDGE_CLASS_PERMANENT},
	{-ESRCH, "ESRCH", "no such process", KEDGE_CLASS_PERMANENT},
	{-ENOSYS, "ENOSYS", "not known to this kernel", KEDGE_CLASS_PERMANENT},
};

static const struct row *find_row(int code)
{
	for (size_t i = 0; i < sizeof own_rows / sizeof own_rows[0]; i++)
		if (own_rows[i].code == code)
			return &own_rows[i];
	for (size_t i = 0; i < sizeof errno_rows / sizeof errno_rows[0]; i++)
		if (errno_rows[i].code == code)
			return &errno_rows[i];
	return NULL;
}

int kedge_err_set(struct kedge_err *err, int code, enum kedge_side side, const char *fmt, ...)
{
	va_list ap;

	if (!err || err->code)
		return code;
	err->code = code;
	err->side = side;
	va_start(ap, fmt);
	vsnprintf(err->msg, sizeof err->msg, fmt, ap);
	va_end(ap);
	return code;
}

void kedge_err_prefix(struct kedge_err *err, const char *fmt, ...)
{
	char old[KEDGE_ERR_MSG_MAX], prefix[KEDGE_ERR_MSG_MAX];
	va_list ap;

	if (!err || !err->code)
		return;
	memcpy(old, err->msg, sizeof old);
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof prefix, fmt, ap);
	va_end(ap);
	/* What does not fit is cut at the end, never the prefix. */
	size_t prefix_len = strlen(prefix);
	if (prefix_len > sizeof err->msg - 3)
		prefix_len = sizeof err->msg - 3;
	memcpy(err->msg, prefix, prefix_len);
	memcpy(err->msg + prefix_len, ": ", 2);
	size_t room = sizeof err->msg - prefix_len - 2;
	size_t old_len = strnlen(old, sizeof old - 1);
	if (old_len > room - 1)
		old_len = room - 1;
	memcpy(err->msg + prefix_len + 2, old, old_len);
	err->msg[prefix_len + 2 + old_len] = 0;
}

const char *kedge_err_text(int code)
{
	const struct row *r = find_row(code);

	if (code == 0)
		return "success";
	return r ? r->text : (code < 0 && code > -4096 ? strerror(-code) : "unknown error");
}

const char *kedge_err_name(int code)
{
	const struct row *r = find_row(code);
	const char *name;

	if (r)
		return r->name;
	name = code < 0 && code > -4096 ? strerrorname_np(-code) : NULL;
	return name ? name : "EIO";
}

int kedge_err_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof own_rows / sizeof own_rows[0]; i++)
		if (strcmp(own_rows[i].name, name) == 0)
			return own_rows[i].code;
	for (int e = 1; e < 134; e++) {
		const char *n = strerrorname_np(e);
		if (n && strcmp(n, name) == 0)
			return -e;
	}
	return -EIO;
}

enum kedge_err_class kedge_err_class_of(int code)
{
	const struct row *r = find_row(code);

	return r ? r->class : KEDGE_CLASS_PERMANENT;
}

const char *kedge_err_class_name(enum kedge_err_class class)
{
	static const char *const names[] = {"transient", "operator", "permanent", "bug"};

	return (unsigned)class < 4 ? names[class] : "bug";
}

const char *kedge_side_name(enum kedge_side side)
{
	static const char *const names[] = {"none", "source", "destination", "metadata", "control"};

	return (unsigned)side < 5 ? names[side] : "none";
}

enum kedge_exit kedge_exit_of(int code)
{
	switch (code) {
	case 0:
		return KEDGE_EXIT_OK;
	case KEDGE_E_META_MISSING:
		return KEDGE_EXIT_META_MISSING;
	case KEDGE_E_META_ZEROED:
		return KEDGE_EXIT_META_ZEROED;
	case KEDGE_E_META_FOREIGN:
		return KEDGE_EXIT_META_FOREIGN;
	case KEDGE_E_META_OLD:
		return KEDGE_EXIT_META_OLD;
	case KEDGE_E_META_CORRUPT:
		return KEDGE_EXIT_META_CORRUPT;
	case KEDGE_E_META_VERSION:
		return KEDGE_EXIT_META_VERSION;
	case KEDGE_E_META_EXISTS:
		return KEDGE_EXIT_META_EXISTS;
	case KEDGE_E_META_BUSY:
		return KEDGE_EXIT_META_BUSY;
	case KEDGE_E_SOURCE_IDENTITY:
		return KEDGE_EXIT_SOURCE_IDENTITY;
	case KEDGE_E_SOURCE_AWAY:
		return KEDGE_EXIT_SOURCE_AWAY;
	case KEDGE_E_SOURCE_AUTH:
		return KEDGE_EXIT_SOURCE_AUTH;
	case KEDGE_E_DEST_IDENTITY:
		return KEDGE_EXIT_DEST_IDENTITY;
	case KEDGE_E_DEST_SIZE:
		return KEDGE_EXIT_DEST_SIZE;
	case KEDGE_E_VERIFY:
		return KEDGE_EXIT_VERIFY;
	case KEDGE_E_UNREACHABLE:
		return KEDGE_EXIT_UNREACHABLE;
	case KEDGE_E_WRITTEN:
	case KEDGE_E_FENCED:
	case KEDGE_E_STALE_EPOCH:
	case KEDGE_E_NOT_HYDRATED:
	case KEDGE_E_STATE:
	case KEDGE_E_BUSY_VOLUME:
		return KEDGE_EXIT_REFUSED;
	case KEDGE_E_NO_ROOM:
	case KEDGE_E_STILL_OPEN:
		return KEDGE_EXIT_BLOCKED;
	case -ETIMEDOUT:
		return KEDGE_EXIT_DEADLINE;
	case -EINVAL:
		return KEDGE_EXIT_USAGE;
	default:
		return KEDGE_EXIT_FAILED;
	}
}

_Noreturn void kedge_assert_fail(const char *cond, const char *file, int line)
{
	fprintf(stderr, "kedge: inconsistency: %s does not hold at %s:%d\n", cond, file, line);
	abort();
}
