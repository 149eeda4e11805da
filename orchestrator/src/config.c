/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Read kedged.conf(5) and the cluster secret. The only file that knows libinih. What is not known is an error with
 * file and line, never ignored.
 *
 * Owns. Nothing after it returns.
 *
 * Locks. None: runs before the loop.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ini.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address.h"
#include "duration.h"
#include "kedge/size.h"
#include "kedge/bytes.h"
#include "kedge/file.h"
#include "orch/kedged.h"
#include "pace.h"

/* libinih's own buffer holds 200 bytes and breaks longer lines into two without a word. */
#define LINE_BYTES_MAX 190
#define CONFIG_BYTES_MAX (256 * 1024)
#define SECRET_BYTES_MIN 32

struct reader {
	struct kedged_config *config;
	struct kedge_err err; /* the first thing that was wrong; the line is what libinih returns */
	bool is_set[32];      /* by row of the table below */
};

static int set_name(struct reader *r, char *out, const char *value)
{
	if (!kedge_name_is_valid(value))
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL,
				     "\"%s\" is not a host name (lower-case letters, digits, '.', '_', '-')", value);
	strcpy(out, value);
	return 0;
}

static int set_path(struct reader *r, char *out, const char *value)
{
	if (value[0] != '/' || strlen(value) >= KEDGED_PATH_MAX)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not an absolute path", value);
	strcpy(out, value);
	return 0;
}

static int set_address(struct reader *r, char *out, const char *value)
{
	struct sockaddr_storage a;
	socklen_t a_bytes;
	int res = address_parse(value, &a, &a_bytes, &r->err);

	if (res)
		return res;
	if (strlen(value) >= KEDGED_ADDR_MAX)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is too long", value);
	strcpy(out, value);
	return 0;
}

static int set_host(struct reader *r, const char *value)
{
	return set_name(r, r->config->host, value);
}

static int set_roles(struct reader *r, const char *value)
{
	char copy[128];
	char *rest, *word;

	if (strlen(value) >= sizeof copy)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "the list of roles is too long");
	strcpy(copy, value);
	for (word = strtok_r(copy, ", \t", &rest); word; word = strtok_r(NULL, ", \t", &rest)) {
		if (strcmp(word, "agent") == 0)
			r->config->is_agent = true;
		else if (strcmp(word, "coordinator") == 0)
			r->config->is_coordinator = true;
		else
			return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL,
					     "no such role: \"%s\" (agent, coordinator)", word);
	}
	return 0;
}

static int set_listen(struct reader *r, const char *value)
{
	return set_address(r, r->config->listen, value);
}

static int set_socket(struct reader *r, const char *value)
{
	return set_path(r, r->config->socket, value);
}

static int set_state_dir(struct reader *r, const char *value)
{
	return set_path(r, r->config->state_dir, value);
}

static int set_run_dir(struct reader *r, const char *value)
{
	return set_path(r, r->config->run_dir, value);
}

static int set_secret_file(struct reader *r, const char *value)
{
	return set_path(r, r->config->cluster_secret_file, value);
}

static int set_coordinator(struct reader *r, const char *value)
{
	return set_address(r, r->config->coordinator, value);
}

static int set_volume_dir(struct reader *r, const char *value)
{
	return set_path(r, r->config->volume_dir, value);
}

static int set_portal_address(struct reader *r, const char *value)
{
	unsigned char any[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, value, any) != 1 && inet_pton(AF_INET6, value, any) != 1)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a numeric address without a port",
				     value);
	strcpy(r->config->portal_address, value);
	return 0;
}

static int set_bin_dir(struct reader *r, const char *value)
{
	return set_path(r, r->config->bin_dir, value);
}

static int set_verify_holes(struct reader *r, const char *value)
{
	if (strcmp(value, "status") != 0 && strcmp(value, "read") != 0)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "verify_holes is status or read, not \"%s\"", value);
	r->config->is_verify_holes_read = strcmp(value, "read") == 0;
	return 0;
}

static int set_verify_data(struct reader *r, const char *value)
{
	if (strcmp(value, "checksum") != 0 && strcmp(value, "bytes") != 0)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "verify_data is checksum or bytes, not \"%s\"", value);
	r->config->is_verify_data_bytes = strcmp(value, "bytes") == 0;
	return 0;
}

static int set_free_space(struct reader *r, const char *value)
{
	if (strcmp(value, "copy") != 0 && strcmp(value, "skip") != 0)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "free_space is copy or skip, not \"%s\"", value);
	r->config->is_free_skipped = strcmp(value, "skip") == 0;
	return 0;
}

static int set_hydrate_floor(struct reader *r, const char *value)
{
	uint64_t bytes;

	if (strlen(value) >= sizeof r->config->hydrate_floor || kedge_size_parse(value, &bytes) || bytes > INT64_MAX)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a number of bytes (8M, 0)", value);
	strcpy(r->config->hydrate_floor, value);
	return 0;
}

static int set_latency_factor(struct reader *r, const char *value)
{
	uint32_t percent;

	if (strlen(value) >= sizeof r->config->latency_factor || kedge_factor_parse(value, &percent) || (percent && (percent < 101 || percent > 10000)))
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a factor from 1.01 to 100, or 0", value);
	strcpy(r->config->latency_factor, value);
	return 0;
}

static int set_transit(struct reader *r, const char *value)
{
	if (!pace_is_transit(value))
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "transit is " PACE_TRANSITS ", not \"%s\"", value);
	strcpy(r->config->transit, value);
	return 0;
}

static int set_hold(struct reader *r, const char *value)
{
	if (duration_parse(value, &r->config->hold_ms))
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a duration (0s, 30m, 24h)", value);
	return 0;
}

static int set_release(struct reader *r, const char *value)
{
	if (strcmp(value, "delete") != 0 && strcmp(value, "keep") != 0)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "release is delete or keep, not \"%s\"", value);
	r->config->is_release_delete = strcmp(value, "delete") == 0;
	return 0;
}

static const struct {
	const char *section, *key;
	int (*set)(struct reader *r, const char *value);
} keys[] = {
	{"daemon", "host", set_host},
	{"daemon", "roles", set_roles},
	{"daemon", "listen", set_listen},
	{"daemon", "socket", set_socket},
	{"daemon", "state_dir", set_state_dir},
	{"daemon", "run_dir", set_run_dir},
	{"daemon", "cluster_secret_file", set_secret_file},
	{"daemon", "coordinator", set_coordinator},
	{"agent", "volume_dir", set_volume_dir},
	{"agent", "portal_address", set_portal_address},
	{"agent", "bin_dir", set_bin_dir},
	{"agent", "verify_holes", set_verify_holes},
	{"agent", "verify_data", set_verify_data},
	{"agent", "free_space", set_free_space},
	{"agent", "hydrate_floor", set_hydrate_floor},
	{"agent", "latency_factor", set_latency_factor},
	{"agent", "transit", set_transit},
	{"coordinator", "hold", set_hold},
	{"coordinator", "release", set_release},
};
_Static_assert(KEDGE_ARRAY_LEN(keys) <= sizeof(((struct reader *)0)->is_set), "one mark a key");

static int host_key(struct reader *r, const char *name, const char *key, const char *value)
{
	struct kedged_config *c = r->config;

	if (!kedge_name_is_valid(name))
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is not a host name", name);
	if (strcmp(key, "address") != 0)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "unknown key \"%s\" in [host %s]", key, name);
	for (unsigned i = 0; i < c->nr_hosts; i++)
		if (strcmp(c->hosts[i].name, name) == 0)
			return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "host %s is given twice", name);
	if (c->nr_hosts == KEDGED_HOSTS_MAX)
		return kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "more than %d hosts", KEDGED_HOSTS_MAX);
	int res = set_address(r, c->hosts[c->nr_hosts].address, value);
	if (res)
		return res;
	strcpy(c->hosts[c->nr_hosts].name, name);
	c->nr_hosts++;
	return 0;
}

/* libinih's callback: non-zero means good. */
static int on_key(void *user, const char *section, const char *key, const char *value)
{
	struct reader *r = user;
	bool is_section_known = false;

	if (strncmp(section, "host ", 5) == 0)
		return host_key(r, section + 5, key, value) == 0;
	for (size_t i = 0; i < KEDGE_ARRAY_LEN(keys); i++) {
		if (strcmp(section, keys[i].section) != 0)
			continue;
		is_section_known = true;
		if (strcmp(key, keys[i].key) != 0)
			continue;
		if (r->is_set[i]) {
			kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "\"%s\" is given twice", key);
			return 0;
		}
		r->is_set[i] = true;
		return keys[i].set(r, value) == 0;
	}
	if (is_section_known)
		kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "unknown key \"%s\" in [%s]", key, section);
	else
		kedge_err_set(&r->err, -EINVAL, KEDGE_SIDE_CONTROL, "unknown section [%s]", section);
	return 0;
}

/* What libinih would pass over in silence: long lines, and sections in which no key stands. */
static int scan_lines(const char *path, const char *text, struct kedge_err *err)
{
	static const char *const sections[] = {"[daemon]", "[agent]", "[coordinator]"};
	unsigned line = 1;

	for (const char *p = text; *p; line++) {
		size_t n = strcspn(p, "\n");
		if (n > LINE_BYTES_MAX)
			return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s:%u: the line is longer than %d bytes", path,
					     line, LINE_BYTES_MAX);
		if (p[0] == '[' && strncmp(p, "[host ", 6) != 0) {
			bool is_known = false;
			for (size_t i = 0; i < KEDGE_ARRAY_LEN(sections); i++)
				is_known |= strncmp(p, sections[i], strlen(sections[i])) == 0;
			if (!is_known)
				return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s:%u: unknown section %.*s", path,
						     line, (int)n, p);
		}
		p += n + (p[n] == '\n');
	}
	return 0;
}

static int join(char *out, const char *dir, const char *name, struct kedge_err *err)
{
	size_t dir_len = strlen(dir), name_len = strlen(name);

	if (dir_len + 1 + name_len >= KEDGED_PATH_MAX)
		return kedge_err_set(err, -ENAMETOOLONG, KEDGE_SIDE_CONTROL, "%s/%s is too long", dir, name);
	memcpy(out, dir, dir_len);
	out[dir_len] = '/';
	memcpy(out + dir_len + 1, name, name_len + 1);
	return 0;
}

static int default_bin_dir(char *out, struct kedge_err *err)
{
	ssize_t n = readlink("/proc/self/exe", out, KEDGED_PATH_MAX - 1);

	if (n <= 0)
		return kedge_err_set(err, -errno, KEDGE_SIDE_CONTROL, "/proc/self/exe cannot be read; set bin_dir");
	out[n] = 0;
	*strrchr(out, '/') = 0;
	return 0;
}

static int fill_defaults(struct kedged_config *c, struct kedge_err *err)
{
	int res = 0;

	if (!c->volume_dir[0])
		res = join(c->volume_dir, c->state_dir, "volumes", err);
	if (!res && !c->socket[0])
		res = join(c->socket, c->run_dir, "api.sock", err);
	if (!res && !c->bin_dir[0])
		res = default_bin_dir(c->bin_dir, err);
	if (!res && !c->portal_address[0]) {
		const char *colon = strrchr(c->listen, ':');
		bool is_v6 = c->listen[0] == '[';
		size_t n = (size_t)(colon - c->listen) - 2 * is_v6;
		memcpy(c->portal_address, c->listen + is_v6, n);
		c->portal_address[n] = 0;
	}
	return res;
}

static int refuse_public(const char *path, const char *key, const char *text, struct kedge_err *err)
{
	struct sockaddr_storage a;
	socklen_t a_bytes;
	char with_port[KEDGED_ADDR_MAX + 8];
	bool has_port = strcmp(key, "portal_address") != 0;

	snprintf(with_port, sizeof with_port, has_port ? "%s" : strchr(text, ':') ? "[%s]:1" : "%s:1", text);
	if (address_parse(with_port, &a, &a_bytes, err))
		return -EINVAL;
	if (!address_is_private(&a))
		return kedge_err_set(err, KEDGE_E_STATE, KEDGE_SIDE_CONTROL,
				     "%s: %s = %s is not a private address; take the network between the hosts", path, key,
				     text);
	return 0;
}

static int check_whole(const char *path, struct kedged_config *c, struct kedge_err *err)
{
	if (!c->host[0])
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s: [daemon] host is missing", path);
	if (!c->is_agent && !c->is_coordinator)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s: [daemon] roles is missing", path);
	if (!c->listen[0])
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s: [daemon] listen is missing", path);
	if (c->is_coordinator && c->nr_hosts == 0)
		return kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL,
				     "%s: a coordinator needs a [host NAME] section for each host", path);
	int res = refuse_public(path, "listen", c->listen, err);
	if (!res)
		res = fill_defaults(c, err);
	if (!res)
		res = refuse_public(path, "portal_address", c->portal_address, err);
	/* the credentials of a migration are sent there, and nothing is encrypted */
	for (unsigned i = 0; !res && i < c->nr_hosts; i++)
		res = refuse_public(path, "address", c->hosts[i].address, err);
	return res;
}

static int read_secret(struct kedged_config *c, struct kedge_err *err)
{
	char *text;
	size_t n;
	int res = kedge_file_read_secret(c->cluster_secret_file, sizeof c->secret, &text, &n, err);

	if (res)
		return res;
	/* An editor's newline is not part of the secret. */
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	if (n < SECRET_BYTES_MIN) {
		res = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL,
				    "%s: the cluster secret has %zu bytes, fewer than %d; make one with: head -c 32 /dev/urandom | base64",
				    c->cluster_secret_file, n, SECRET_BYTES_MIN);
	} else {
		memcpy(c->secret, text, n);
		c->secret_bytes = n;
	}
	explicit_bzero(text, n);
	free(text);
	return res;
}

int kedged_config_read(const char *path, struct kedged_config *ret_config, struct kedge_err *err)
{
	struct kedged_config *c = calloc(1, sizeof *c);
	struct reader r = {.config = c};
	char *text = NULL;
	size_t n;
	int res;

	if (!c)
		return kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "out of memory");
	strcpy(c->state_dir, "/var/lib/kedge");
	strcpy(c->run_dir, "/run/kedge");
	strcpy(c->cluster_secret_file, "/etc/kedge/cluster.secret");
	c->is_release_delete = true;

	res = kedge_file_read(path, CONFIG_BYTES_MAX, &text, &n, err);
	if (!res && strlen(text) != n)
		res = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s: holds a NUL byte", path);
	if (!res)
		res = scan_lines(path, text, err);
	if (!res) {
		int line = ini_parse_string(text, on_key, &r);
		if (line > 0)
			res = kedge_err_set(err, -EINVAL, KEDGE_SIDE_CONTROL, "%s:%d: %s", path, line,
					    r.err.code ? r.err.msg : "neither a section nor \"key = value\"");
		else if (line < 0)
			res = kedge_err_set(err, -ENOMEM, KEDGE_SIDE_CONTROL, "%s: out of memory", path);
	}
	if (!res)
		res = check_whole(path, c, err);
	if (!res)
		res = read_secret(c, err);
	if (!res)
		*ret_config = *c;
	free(text);
	explicit_bzero(c, sizeof *c);
	free(c);
	return res;
}
