/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Purpose. Exclusive locks on block ranges, first come first served among those that overlap. Pure.
 *
 * A list in order of arrival is enough: as many locks exist as there are changes in flight, a few hundred at most.
 */
#include "uclone_int.h"

void uc_locks_init(struct uc_locks *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static bool has_conflict_before(const struct uc_locks *l, const struct uc_lock *k)
{
	for (const struct uc_lock *o = l->head; o != k; o = o->next)
		if (o->first < k->end && k->first < o->end)
			return true;
	return false;
}

bool uc_lock(struct uc_locks *l, struct uc_lock *k, uint64_t first, uint64_t end)
{
	k->first = first;
	k->end = end;
	k->next = NULL;
	*l->tail = k;
	l->tail = &k->next;
	k->is_held = !has_conflict_before(l, k);
	return k->is_held;
}

void uc_unlock(struct uc_locks *l, struct uc_lock *k)
{
	struct uc_lock **p = &l->head;
	uint64_t first = k->first, end = k->end;

	while (*p != k)
		p = &(*p)->next;
	*p = k->next;
	if (l->tail == &k->next)
		l->tail = p;
	k->is_held = false;
	/* A granted callback may lock and unlock: start over after each, it ends because each round grants one. */
	for (struct uc_lock *o = l->head; o;) {
		if (!o->is_held && o->first < end && first < o->end && !has_conflict_before(l, o)) {
			o->is_held = true;
			o->granted(o);
			o = l->head;
		} else {
			o = o->next;
		}
	}
}

uint64_t uc_locks_find(const struct uc_locks *l, uint64_t first, uint64_t end)
{
	uint64_t at = end;

	for (const struct uc_lock *o = l->head; o; o = o->next)
		if (o->first < at && first < o->end)
			at = kedge_max_u64(o->first, first);
	return at;
}
