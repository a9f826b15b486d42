/* One blob, pushed, referred to, let go, condemned, retired and pushed again: the protocol as it is built.
 *
 * A transaction of the index is one `atomic`; a request to the backend is one step of its own, which may land after its sender
 * died. No clock: a hold lapses, an intent expires, a quarantine ends whenever the search likes, so that no answer hangs on time.
 * An argument about one digest is one about all: each verb looks at the rows of each of its digests, in one transaction.
 *
 * Each `inline` is a transition; transitions.py says which verb of the index it stands for.
 * Sizes: GENERATIONS, COLLECTORS, CRASHES, REPOSITORIES, DAMAGES, DELETES. What breaks the protocol on purpose: BREAK_*.
 * Left out: NO_RECONCILE, NO_PUSHER_DIES, NO_EXPIRE, ONLY_LOSSES (retired bytes may come back, until that loses something).
 * PROMISE: no hold lapses that somebody was told of. REACH: a goal, by its number, that must be reached.
 */
#ifndef GENERATIONS
#define GENERATIONS 2
#endif
#ifndef COLLECTORS
#define COLLECTORS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef REPOSITORIES
#define REPOSITORIES 1
#endif
#ifndef DAMAGES
#define DAMAGES 0
#endif
#ifndef DELETES
#define DELETES 2		/* how often an edge, a hold or the quarantine is ended by hand */
#endif
#define LAST (GENERATIONS + 1)	/* generations count from 1: 0 is none */

#ifdef BREAK_SAME_NAME
#define NAME(g) 1
#else
#define NAME(g) (g)
#endif

/* Properties. The number is what a run prints when it finds one broken. */
#define BYTES_ARE_THERE		1	/* I1 */
#define EDGES_ARE_SOUND		2	/* I2 */
#define PROMISES_ARE_KEPT	3	/* I3 */
#define NO_GARBAGE_STAYS	5	/* I5 */
#define NAMES_ARE_USED_ONCE	7	/* I7 */
#define DAMAGE_STAYS_KNOWN	8	/* nothing that was found damaged is answered for again; nothing sound is called damaged */
#define REACHED			9	/* not a property: something that must be possible */
byte broken = 0;
#define MUST(property, holds)	if :: (holds) :: else -> broken = property; assert(broken != property) fi
#ifdef REACH
#define GOAL(number, is_met)	if :: (number == REACH && (is_met)) -> broken = REACHED; assert(broken != REACHED) :: else fi
#else
#define GOAL(number, is_met)	skip
#endif

#define ABSENT 0
#define PRESENT 1
#define CONDEMNED 2
#define SUSPECT 3
#define WAITING 1
#define RETIRING 2
#define LIVE 1
#define LAPSED 2

/* The index */
byte state = ABSENT, generation = 0, minted = 0;
bit intent[LAST];
byte trash[LAST];
bit edge[2];				/* of each pusher's manifest */
byte hold[REPOSITORIES];
/* The backend, and requests under way whose sender died */
bit bytes[LAST], late_put[LAST], late_delete[LAST];
/* What happened, for the properties alone */
bit retired[LAST], published_once[LAST];
byte rotten = 0, found_rotten = 0;
#ifdef PROMISE
bit told[2];
#endif
byte crashes = CRASHES, damages = DAMAGES, deletes = DELETES, ended = 0;

#define REPOSITORY(pusher)	((pusher) % REPOSITORIES)
#define ANY_EDGE		(edge[0] || edge[1])
#if REPOSITORIES == 1
#define EDGE_FROM(r)		ANY_EDGE
#define ANY_LIVE		(hold[0] == LIVE)
#define LET_ALL_GO		hold[0] = 0
#else
#define EDGE_FROM(r)		edge[r]
#define ANY_LIVE		(hold[0] == LIVE || hold[1] == LIVE)
#define LET_ALL_GO		hold[0] = 0; hold[1] = 0
#endif
#define MAY_BE_USED		(state == PRESENT || state == CONDEMNED)
#define VISIBLE(r)		(MAY_BE_USED && (EDGE_FROM(r) || hold[r] == LIVE || (hold[r] == LAPSED && state == CONDEMNED)))
#ifdef PROMISE
/* Not while a pusher was told yes and has not used it, unless that yes stands on an edge. */
#define TELL(pusher)		told[pusher] = 1
#define TELL_NO_MORE(pusher)	told[pusher] = 0
#if REPOSITORIES == 1
#define MAY_LAPSE(r)		(EDGE_FROM(r) || !(told[0] || told[1]))
#else
#define MAY_LAPSE(r)		(EDGE_FROM(r) || !told[r])
#endif
#else
#define MAY_LAPSE(r)		true
#define TELL(pusher)		skip
#define TELL_NO_MORE(pusher)	skip
#endif
#define KNOWN(g)		((state != ABSENT && generation == (g)) || intent[g] || trash[g])

inline sound()
{
	MUST(BYTES_ARE_THERE, !MAY_BE_USED || bytes[NAME(generation)] || rotten == generation);
	MUST(EDGES_ARE_SOUND, !ANY_EDGE || state == PRESENT || state == SUSPECT);
	MUST(DAMAGE_STAYS_KNOWN, !MAY_BE_USED || found_rotten != generation)
}

inline retiring_row(g) { trash[g] = RETIRING; retired[g] = 1 }

/* Steps that several transactions share */

inline revive()
{
	state = PRESENT;
#ifndef BREAK_REVIVE_LEAVES_TRASH
	trash[generation] = 0
#endif
}

inline promise(r)
{
	if
	:: state == CONDEMNED -> revive()
	:: else
	fi;
	hold[r] = LIVE
}

/* Transactions of a push */

inline start_upload(g)
{
	minted++;
	g = minted;
#ifndef BREAK_NO_INTENT
	intent[g] = 1
#endif
}

inline touch_blob(r, answer)
{
	answer = VISIBLE(r);
	if
#ifndef BREAK_HEAD_WITHOUT_HOLD
	/* By an edge nothing is written: where that goes, a hold takes its place. */
	:: answer && (state == CONDEMNED || !EDGE_FROM(r)) -> promise(r)
#endif
	:: else
	fi
}

inline mount_blob(source, target, answer)
{
	answer = VISIBLE(source);
	if
	:: answer -> promise(target)
	:: else
	fi
}

/* answer: 0 start anew, 1 done, 2 the bytes are needed */
inline commit_blob(r, g, is_published, answer)
{
	if
#if defined(BREAK_NO_FENCE) || defined(BREAK_NO_INTENT)
	:: 0 -> skip
#else
	:: !intent[g] ->
		answer = 0;
		if
		:: is_published -> retiring_row(g)
		:: else
		fi
#endif
	:: else ->
		if
		:: !MAY_BE_USED && !is_published -> answer = 2
		:: !MAY_BE_USED && is_published ->
#ifndef ONLY_LOSSES
			MUST(NAMES_ARE_USED_ONCE, !retired[g]);
#endif
			GOAL(2, minted > 1 && retired[1] && g > 1);
			GOAL(5, state == SUSPECT);
			intent[g] = 0;
			if
			:: state == SUSPECT -> retiring_row(generation)
			:: else
			fi;
			state = PRESENT;
			generation = g;
			hold[r] = LIVE;
			answer = 1
		:: MAY_BE_USED ->
			intent[g] = 0;
			retiring_row(g);
			promise(r);
			answer = 1
		fi
	fi;
	sound()
}

inline put_manifest(pusher, r, answer)
{
#ifdef BREAK_TRUST_HEAD
	answer = 1;
#else
	answer = VISIBLE(r);
#endif
	if
	:: answer ->
		GOAL(4, state == CONDEMNED);
		if
		:: state == CONDEMNED -> revive()
		:: else
		fi;
		edge[pusher] = 1;
		GOAL(1, edge[0] && edge[1])
	:: else
#ifdef PROMISE
		-> MUST(PROMISES_ARE_KEPT, false)
#endif
	fi;
	sound()
}

/* Transactions of people, and what time does */

inline delete_manifest(pusher, r)
{
	edge[pusher] = 0;
#ifndef BREAK_EDGE_WITHOUT_HOLD
	if
	:: !EDGE_FROM(r) -> hold[r] = LIVE
	:: else
	fi
#endif
}

/* What is left is a hold of nobody: the collector needs it to find the blob, but nobody sees anything by it. */
inline delete_blob(r) { hold[r] = 0 }

inline undo_condemned(r) { promise(r); sound() }

inline lapse(r) { hold[r] = LAPSED }

inline suspect_blob(g)
{
	if
	:: state == PRESENT && generation == g ->
		MUST(DAMAGE_STAYS_KNOWN, rotten == g);
		state = SUSPECT;
		found_rotten = g
	:: else
	fi
}

/* Transactions of the collector */

inline expire_upload(g) { intent[g] = 0; retiring_row(g) }

inline condemn()
{
	if
	:: state == PRESENT -> state = CONDEMNED; trash[generation] = WAITING
#ifdef BREAK_SUSPECT_CONDEMNED
	:: state == SUSPECT -> state = CONDEMNED; trash[generation] = WAITING
#else
	/* Never condemned, so that nothing revives it. */
	:: state == SUSPECT -> state = ABSENT; trash[generation] = WAITING; LET_ALL_GO
#endif
	fi;
	sound()
}

/* A lapsed hold of a blob that something else keeps has done its work. */
inline sweep_holds(r) { hold[r] = 0 }

inline remove_row() { state = ABSENT; LET_ALL_GO }

inline retire(g)
{
	if
#ifdef BREAK_RETIRE_WITHOUT_CHECK
	:: state != ABSENT && generation == g -> remove_row(); retiring_row(g)
#else
	:: state != ABSENT && generation == g && state != CONDEMNED -> trash[g] = 0
	:: state == CONDEMNED && generation == g && (ANY_EDGE || ANY_LIVE) -> revive()
	:: state == CONDEMNED && generation == g && !ANY_EDGE && !ANY_LIVE -> remove_row(); retiring_row(g)
#endif
	:: !(state != ABSENT && generation == g) -> retiring_row(g)
	fi;
	sound()
}

inline forget_trash(g)
{
	if
	:: trash[g] == RETIRING -> trash[g] = 0
	:: else
	fi
}

inline trash_orphans(g)
{
	if
	:: !KNOWN(g) -> retiring_row(g)
	:: else -> g = 0
	fi
}

/* Requests to the backend */

inline put_bytes(g)
{
#ifndef BREAK_SAME_NAME
	MUST(NAMES_ARE_USED_ONCE, !published_once[g]);
#endif
	published_once[g] = 1;
	bytes[NAME(g)] = 1
}

inline delete_bytes(g)
{
	MUST(NAMES_ARE_USED_ONCE, retired[g]);
	bytes[NAME(g)] = 0;
	sound()
}

#ifdef NO_PUSHER_DIES
#define PUSHER_DIES	false
#else
#define PUSHER_DIES	(crashes > 0)
#endif

proctype pusher(byte self)
{
	byte g = 0;
	byte answer = 0;
	bit is_published = 0;

again:	g = 0; is_published = 0;
	if
	:: self == 0 ->
		atomic {
			touch_blob(REPOSITORY(self), answer);
			if
			:: answer -> answer = 0; TELL(self); goto refer
			:: else
			fi
		}
#if REPOSITORIES > 1
		atomic {
			mount_blob(1, 0, answer);
			if
			:: answer -> answer = 0; TELL(self); goto refer
			:: else
			fi
		}
#endif
	:: else
	fi;
upload:	atomic {
		if
		:: minted < GENERATIONS -> start_upload(g)
		:: else -> goto over
		fi
	}
	/* Better ask than publish what is here already. */
	if
	:: MAY_BE_USED -> goto commit
	:: !MAY_BE_USED
	fi;
publish:
	if
	:: atomic { put_bytes(g); is_published = 1 }
	:: atomic { PUSHER_DIES -> crashes--; late_put[g] = 1; goto again }
	fi;
commit:
	if
	:: atomic {
		commit_blob(REPOSITORY(self), g, is_published, answer);
		if
		:: answer == 0 -> is_published = 0; g = 0; goto upload
		:: answer == 1 -> answer = 0; g = 0; is_published = 0; TELL(self)
		:: answer == 2 -> answer = 0; goto publish
		fi
	}
	:: atomic { PUSHER_DIES -> crashes--; answer = 0; goto again }
	fi;
refer:
	if
	:: atomic {
		put_manifest(self, REPOSITORY(self), answer);
		TELL_NO_MORE(self);
		if
		:: answer -> answer = 0
		:: else -> goto upload
		fi
	}
	:: atomic { PUSHER_DIES -> crashes--; TELL_NO_MORE(self); goto again }
	fi;
over:	atomic { g = 0; is_published = 0; answer = 0; ended++ }
}

#define CHOOSE(g, first, second, third, fourth) \
	if :: first -> g = 1 :: second -> g = 2 :: third -> g = 3 :: fourth -> g = 4 fi
#if GENERATIONS == 2
#define EACH(what, x)	CHOOSE(x, what(1), what(2), false, false)
#elif GENERATIONS == 3
#define EACH(what, x)	CHOOSE(x, what(1), what(2), what(3), false)
#else
#define EACH(what, x)	CHOOSE(x, what(1), what(2), what(3), what(4))
#endif
#define OPEN(g)		(intent[g])
#define DUE(g)		(trash[g] == WAITING)
#define DUE_AND_FREE(g)	(DUE(g) && state == CONDEMNED && generation == g && !ANY_EDGE && !ANY_LIVE)
#define ON_ITS_WAY(g)	(trash[g] == RETIRING)
#define LISTED(g)	(bytes[g])
#define UNKNOWN(g)	(!KNOWN(g))
#define LATE_PUT(g)	(late_put[g])
#define LATE_DELETE(g)	(late_delete[g])

proctype collector()
{
	byte g = 0;

idle:	atomic { g = 0 };
	if
#ifndef NO_EXPIRE
	:: atomic { EACH(OPEN, g); expire_upload(g) } -> goto delete
#endif
	:: atomic { !ANY_EDGE && !ANY_LIVE && (state == PRESENT || state == SUSPECT) -> condemn() } -> goto idle
	:: atomic { hold[0] == LAPSED && (ANY_EDGE || ANY_LIVE) -> sweep_holds(0) } -> goto idle
#if REPOSITORIES > 1
	:: atomic { hold[1] == LAPSED && (ANY_EDGE || ANY_LIVE) -> sweep_holds(1) } -> goto idle
#endif
#ifdef BREAK_CHECK_THEN_ACT
	:: atomic { EACH(DUE_AND_FREE, g) } ->
		atomic { remove_row(); retiring_row(g); sound() };
		goto delete
#else
	:: atomic { EACH(DUE, g);
		retire(g);
		if
		:: trash[g] == RETIRING -> goto delete
		:: else -> goto idle
		fi }
#endif
	:: atomic { EACH(ON_ITS_WAY, g) } -> goto delete
#ifndef NO_RECONCILE
#ifdef BREAK_READ_THEN_LIST
	:: atomic { EACH(UNKNOWN, g) } ->
		atomic { if :: bytes[g] -> retiring_row(g); goto delete :: else -> goto idle fi }
#else
	:: atomic { EACH(LISTED, g) } ->
		atomic { trash_orphans(g); if :: g -> goto delete :: else -> goto idle fi }
#endif
#endif
	:: goto over
	fi;
delete:
#ifdef BREAK_FORGET_FIRST
	atomic { forget_trash(g) };
#endif
	if
	:: atomic { delete_bytes(g) }
	:: atomic { crashes > 0 -> crashes--; late_delete[g] = 1; goto idle }
	/* Killed before it asked. */
	:: atomic { crashes > 0 -> crashes--; goto idle }
	fi;
#ifndef BREAK_FORGET_FIRST
	atomic { forget_trash(g) };
#endif
	goto idle;
over:	atomic { g = 0; ended++ }
}

#define NOTHING_LATE	(!late_put[1] && !late_delete[1] && !late_put[2] && !late_delete[2] && NOTHING_LATE_3 && NOTHING_LATE_4)
#if GENERATIONS > 2
#define NOTHING_LATE_3	(!late_put[3] && !late_delete[3])
#else
#define NOTHING_LATE_3	true
#endif
#if GENERATIONS > 3
#define NOTHING_LATE_4	(!late_put[4] && !late_delete[4])
#else
#define NOTHING_LATE_4	true
#endif

/* One whole collection, beyond each grace, with nobody else about. */
inline collect_all(g)
{
	g = 1;
	do
	:: g <= GENERATIONS ->
		if :: intent[g] -> expire_upload(g) :: else fi;
		if :: trash[g] == WAITING -> retire(g) :: else fi;
		if
#ifndef NO_RECONCILE
		:: bytes[NAME(g)] && !KNOWN(g) -> retiring_row(g)
#endif
		:: else
		fi;
		if :: trash[g] == RETIRING -> delete_bytes(g); forget_trash(g) :: else fi;
		g++
	:: else -> break
	od
}

inline quiet_end(g)
{
	hold[0] = 0;
#if REPOSITORIES > 1
	hold[1] = 0;
#endif
	if :: !ANY_EDGE && (state == PRESENT || state == SUSPECT) -> condemn() :: else fi;
	collect_all(g);
	collect_all(g);
	MUST(NO_GARBAGE_STAYS, (state != ABSENT) == ANY_EDGE && state != CONDEMNED);
	g = 1;
	do
	:: g <= GENERATIONS ->
		MUST(NO_GARBAGE_STAYS, !intent[g] && !trash[g]);
		MUST(NO_GARBAGE_STAYS, !bytes[NAME(g)] || (state != ABSENT && NAME(generation) == NAME(g)));
		g++
	:: else -> break
	od;
	GOAL(3, minted == GENERATIONS && state == ABSENT && crashes == 0);
	g = 0
}

/* People, time, and what is still on its way to the backend. */
proctype others()
{
	byte g = 0;

	do
	:: atomic { edge[0] && deletes > 0 -> deletes--; delete_manifest(0, REPOSITORY(0)) }
	:: atomic { edge[1] && deletes > 0 -> deletes--; delete_manifest(1, REPOSITORY(1)) }
	:: atomic { hold[0] == LIVE && MAY_LAPSE(0) -> lapse(0) }
#if REPOSITORIES > 1
	:: atomic { hold[1] == LIVE && MAY_LAPSE(1) -> lapse(1) }
#endif
#ifndef PROMISE
	:: atomic { deletes > 0 && hold[0] == LIVE && !EDGE_FROM(0) && MAY_BE_USED -> deletes--; delete_blob(0) }
#endif
	:: atomic { deletes > 0 && state == CONDEMNED -> deletes--; undo_condemned(0) }
	:: atomic { damages > 0 && state == PRESENT -> damages--; rotten = generation; bytes[NAME(generation)] = 0 }
#if DAMAGES > 0
	:: atomic { MAY_BE_USED -> g = generation };
		/* The stat comes back some time after the row was read, and the row is looked at again after that. */
		if
		:: !bytes[NAME(g)] -> atomic { suspect_blob(g); g = 0 }
		:: bytes[NAME(g)] -> g = 0
		fi
#endif
	:: atomic { EACH(LATE_PUT, g); late_put[g] = 0; put_bytes(g); g = 0 }
	:: atomic { EACH(LATE_DELETE, g); late_delete[g] = 0; delete_bytes(g); g = 0 }
	:: atomic { ended == 2 + COLLECTORS && NOTHING_LATE -> break }
	od;
	atomic { quiet_end(g) }
}

init
{
	atomic {
		run pusher(0);
		run pusher(1);
		run collector();
#if COLLECTORS > 1
		run collector();
#endif
		run others()
	}
}
