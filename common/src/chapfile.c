/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. CHAP files: the only way a secret enters a data-plane program.
 * Owns. The text of the file for the length of a call; it is overwritten before it is freed. Locks. None.
 */
#include "kedge/chapfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kedge/file.h"

#define CHAP_FILE_MAX 4096
#define SECRET_MIN 12 /* 96 bits: RFC 7143, 9.2.1 */

void kedge_chap_fini(struct kedge_chap *chap)
{
	explicit_bzero(chap, sizeof *chap);
}

static char *trim(char *s)
{
	char *end;

	while (*s == ' ' || *s == '\t')
		s++;
	end = s + strlen(s);
	while (end > s && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r'))
		*--end = 0;
	return s;
}

static int take_line(char *line, struct kedge_chap *c, const char *path, unsigned line_no, struct kedge_err *err)
{
	char *key = trim(line), *value, *eq;
	char *out;
	size_t out_max;

	if (!*key || *key == '#')
		return 0;
	eq = strchr(key, '=');
	if (!eq)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "%s:%u: expected \"key = value\"", path, line_no);
	*eq = 0;
	key = trim(key);
	value = trim(eq + 1);
	if (strcmp(key, "user") == 0) {
		out = c->user;
		out_max = sizeof c->user;
	} else if (strcmp(key, "secret") == 0) {
		out = c->secret;
		out_max = sizeof c->secret;
	} else if (strcmp(key, "mutual-user") == 0) {
		out = c->mutual_user;
		out_max = sizeof c->mutual_user;
	} else if (strcmp(key, "mutual-secret") == 0) {
		out = c->mutual_secret;
		out_max = sizeof c->mutual_secret;
	} else {
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "%s:%u: unknown key; known: user, secret, mutual-user, mutual-secret", path,
				     line_no);
	}
	if (strlen(value) >= out_max)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE, "%s:%u: value too long (at most %zu bytes)", path,
				     line_no, out_max - 1);
	memcpy(out, value, strlen(value) + 1);
	return 0;
}

static int check(const struct kedge_chap *c, const char *path, struct kedge_err *err)
{
	if (!c->user[0] || strlen(c->secret) < SECRET_MIN)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "%s: needs user and a secret of at least %d bytes", path, SECRET_MIN);
	if (!c->mutual_secret[0] && !c->mutual_user[0])
		return 0;
	if (!c->mutual_user[0] || strlen(c->mutual_secret) < SECRET_MIN)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "%s: mutual CHAP needs mutual-user and a mutual-secret of at least %d bytes", path,
				     SECRET_MIN);
	if (strcmp(c->secret, c->mutual_secret) == 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_NONE,
				     "%s: secret and mutual-secret are the same, which RFC 7143 forbids", path);
	return 0;
}

int kedge_chap_read(const char *path, struct kedge_chap *ret_chap, struct kedge_err *err)
{
	struct kedge_chap c = {0};
	char *text, *next, *line;
	unsigned line_no = 0;
	size_t n;
	int r = kedge_file_read_secret(path, CHAP_FILE_MAX, &text, &n, err);

	if (r < 0)
		return r;
	for (line = text; r == 0 && line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		r = take_line(line, &c, path, ++line_no, err);
	}
	explicit_bzero(text, n);
	free(text);
	if (r == 0)
		r = check(&c, path, err);
	if (r == 0)
		*ret_chap = c;
	kedge_chap_fini(&c);
	return r;
}

int kedge_chap_write(const char *path, const struct kedge_chap *chap, struct kedge_err *err)
{
	char text[CHAP_FILE_MAX];
	int n, r = check(chap, path, err);

	if (r < 0)
		return r;
	n = snprintf(text, sizeof text, "user = %s\nsecret = %s\n", chap->user, chap->secret);
	if (kedge_chap_is_mutual(chap))
		n += snprintf(text + n, sizeof text - (size_t)n, "mutual-user = %s\nmutual-secret = %s\n",
			      chap->mutual_user, chap->mutual_secret);
	r = kedge_file_replace(path, text, (size_t)n, 0600, err);
	explicit_bzero(text, sizeof text);
	return r;
}
