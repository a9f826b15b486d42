/* An image index and its child manifest in one repository: a child must have its record, or its layers would have no edges.
 *
 * Three digests: layer <- child <- parent, where a record is also an edge to its own blob. The blobs' own life is that of
 * collector.pml; here a blob is there or gone, and what matters is which records stand. A tag, a grace, a hold end whenever the
 * search likes. A put that finds a child without its record reads the child back and puts it in the same transaction.
 */
#define LAYER 0
#define CHILD 1
#define PARENT 2

#define EDGES_ARE_SOUND		2	/* I2, for blobs: what a record names is there */
#define CHILDREN_HAVE_RECORDS	3	/* I2, for manifests */
#define KEPT_WHILE_NEEDED	4	/* no record goes while something outside its batch keeps it */
#define REACHED			9
byte broken = 0;
#define MUST(property, holds)	if :: (holds) :: else -> broken = property; assert(broken != property) fi
#ifdef REACH
#define GOAL(number, is_met)	if :: (number == REACH && (is_met)) -> broken = REACHED; assert(broken != REACHED) :: else fi
#else
#define GOAL(number, is_met)	skip
#endif
#ifndef PUTS
#define PUTS 6
#endif

bit present[3];			/* the blobs */
bit held[3];			/* by an unlapsed hold of the repository */
bit record[3];			/* of CHILD and PARENT */
bit tag[3];			/* on CHILD and PARENT */
byte puts = PUTS;
byte ended = 0;

#define EDGE(d)		((d == LAYER && record[CHILD]) || (d == CHILD && (record[CHILD] || record[PARENT])) || (d == PARENT && record[PARENT]))
#define VISIBLE(d)	(present[d] && (EDGE(d) || held[d]))
#define HAS_PARENT(d)	(d == CHILD && record[PARENT])

inline sound()
{
	MUST(EDGES_ARE_SOUND, (!EDGE(LAYER) || present[LAYER]) && (!EDGE(CHILD) || present[CHILD]) && (!EDGE(PARENT) || present[PARENT]));
	MUST(CHILDREN_HAVE_RECORDS, !record[PARENT] || record[CHILD])
}

inline commit_blob(d) { present[d] = 1; held[d] = 1 }

inline lapse(d) { held[d] = 0 }

inline retire(d) { present[d] = 0; sound() }

inline insert_record(d) { present[d] = 1; record[d] = 1 }

inline put_child(with_tag)
{
	if
	:: VISIBLE(LAYER) -> insert_record(CHILD); tag[CHILD] = with_tag
	:: else
	fi;
	sound()
}

/* `is_replayed`: the child's body was read back before, as an earlier answer said that its record is gone. */
inline put_parent(is_replayed, needs)
{
	needs = 0;
	if
	:: !VISIBLE(CHILD)
#ifdef BREAK_CHILD_WITHOUT_RECORD
	:: VISIBLE(CHILD) -> insert_record(PARENT)
#else
	:: VISIBLE(CHILD) && record[CHILD] -> insert_record(PARENT); GOAL(1, is_replayed)
	:: VISIBLE(CHILD) && !record[CHILD] && !is_replayed -> needs = 1
	:: VISIBLE(CHILD) && !record[CHILD] && is_replayed ->
		if
#ifdef BREAK_REPLAY_UNCHECKED
		:: true
#else
		/* Its layers are looked at anew as well. */
		:: VISIBLE(LAYER)
#endif
			-> insert_record(CHILD); insert_record(PARENT); GOAL(2, true)
#ifndef BREAK_REPLAY_UNCHECKED
		:: else
#endif
		fi
#endif
	fi;
	sound()
}

inline remove_record(d)
{
	record[d] = 0; tag[d] = 0;
	/* What it kept is promised from now on. */
	if :: !EDGE(d) -> held[d] = 1 :: else fi;
	if :: d == CHILD && !EDGE(LAYER) -> held[LAYER] = 1 :: else fi;
	if :: d == PARENT && !EDGE(CHILD) -> held[CHILD] = 1 :: else fi;
	sound()
}

#ifdef BREAK_DELETE_CHILD_OF_LIVING
#define IS_REFUSED(d)	false
#else
#define IS_REFUSED(d)	HAS_PARENT(d)
#endif

inline delete_manifest(d)
{
	if
	:: record[d] && !IS_REFUSED(d) -> remove_record(d)
	:: else
	fi
}

inline drop_manifests(d)
{
	if
#ifdef BREAK_DROP_WITHOUT_CHECK
	:: record[d] -> MUST(KEPT_WHILE_NEEDED, !tag[d]); remove_record(d)
#else
	:: record[d] && !tag[d] && !HAS_PARENT(d) -> remove_record(d); GOAL(3, d == CHILD)
#endif
	:: else
	fi
}

/* Parent and child in one batch: the child's keeper goes with it. */
inline drop_both()
{
	if
	:: record[PARENT] && !tag[PARENT] ->
		remove_record(PARENT);
		if :: record[CHILD] && !tag[CHILD] -> remove_record(CHILD) :: else fi;
		GOAL(4, !record[CHILD])
	:: else
	fi
}

proctype pusher()
{
	bit needs = 0, is_replayed = 0;

	do
	:: atomic { puts > 0 -> puts--; commit_blob(LAYER) }
	:: atomic { puts > 0 -> puts--; put_child(0) }
	:: atomic { puts > 0 -> puts--; put_child(1) }
	:: atomic { puts > 0 -> puts--; put_parent(0, needs) };
		do
		:: atomic { needs ->
			/* It reads the child's bytes, if they are there still. */
			if :: present[CHILD] -> is_replayed = 1 :: else -> is_replayed = 0 fi };
			if
			:: atomic { is_replayed -> put_parent(1, needs); is_replayed = 0 }
			:: !is_replayed -> needs = 0
			fi
		:: !needs -> break
		od
	:: atomic { record[PARENT] && !tag[PARENT] && puts > 0 -> puts--; tag[PARENT] = 1 }
	:: break
	od;
	ended++
}

/* A collector plans from what it read, and drops some time after. */
proctype collector()
{
	byte wanted = LAYER;

	do
	:: atomic { record[CHILD] && !tag[CHILD] && !HAS_PARENT(CHILD) -> wanted = CHILD }; atomic { drop_manifests(wanted); wanted = LAYER }
	:: atomic { record[PARENT] && !tag[PARENT] -> wanted = PARENT }; atomic { drop_manifests(wanted); wanted = LAYER }
	:: atomic { record[PARENT] && !tag[PARENT] -> wanted = PARENT }; atomic { drop_both(); wanted = LAYER }
	:: atomic { present[LAYER] && !EDGE(LAYER) && !held[LAYER] -> retire(LAYER) }
	:: atomic { present[CHILD] && !EDGE(CHILD) && !held[CHILD] -> retire(CHILD) }
	:: atomic { present[PARENT] && !EDGE(PARENT) && !held[PARENT] -> retire(PARENT) }
	:: ended == 3 -> break
	od
}

proctype people()
{
	do
	:: atomic { held[LAYER] -> lapse(LAYER) }
	:: atomic { held[CHILD] -> lapse(CHILD) }
	:: atomic { held[PARENT] -> lapse(PARENT) }
	:: atomic { tag[CHILD] -> tag[CHILD] = 0 }
	:: atomic { tag[PARENT] -> tag[PARENT] = 0 }
	:: atomic { record[CHILD] -> delete_manifest(CHILD) }
	:: atomic { record[PARENT] -> delete_manifest(PARENT) }
	:: break
	od;
	ended++
}

init { atomic { run pusher(); run pusher(); run collector(); run people() } }
