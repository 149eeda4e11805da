/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef KEDGE_LOG_H
#define KEDGE_LOG_H

/* Human lines on stderr: "kclone: text". Data never goes here. Single-threaded writers or whole lines only:
 * each call is one write(2). */

enum kedge_log_level { KEDGE_LOG_DEBUG, KEDGE_LOG_INFO, KEDGE_LOG_WARN, KEDGE_LOG_ERR };

/* name is kept, not copied. The level comes from KEDGE_LOG=debug|info|warn|err when set. */
void kedge_log_init(const char *name, enum kedge_log_level level);
void kedge_log(enum kedge_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define kedge_debug(...) kedge_log(KEDGE_LOG_DEBUG, __VA_ARGS__)
#define kedge_info(...) kedge_log(KEDGE_LOG_INFO, __VA_ARGS__)
#define kedge_warn(...) kedge_log(KEDGE_LOG_WARN, __VA_ARGS__)
#define kedge_error(...) kedge_log(KEDGE_LOG_ERR, __VA_ARGS__)

#endif
