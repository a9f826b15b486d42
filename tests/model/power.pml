/* What is durable when the power fails: bytes, index and journal, each as the processes see it and as the disk has it.
 *
 * One blob; a pusher that uploads and refers to it, somebody who deletes the reference, a collector. A power cut ends them all
 * and leaves what was durable, which is more than was waited for if the kernel liked. Then either the index is opened
 * again, or it is lost too and made anew from bytes and journal. Holds and quarantine are left out: they only delay.
 * BREAK_*: a wait for durability that is left out, or a step before another.
 */
#ifndef GENERATIONS
#define GENERATIONS 3
#endif
#ifndef CUTS
#define CUTS 2
#endif
#define LAST (GENERATIONS + 1)

#define BYTES_ARE_THERE		1	/* I1 */
#define EDGES_ARE_SOUND		2	/* I2 */
#define ANSWERS_SURVIVE		4	/* I4: what was put stays, what was deleted stays away */
#define NO_GARBAGE_STAYS	5	/* I5, for bytes that no row knows: nobody would look for them */
#define REACHED			9
byte broken = 0;
#define MUST(property, holds)	if :: (holds) :: else -> broken = property; assert(broken != property) fi
#ifdef REACH
#define GOAL(number, is_met)	if :: (number == REACH && (is_met)) -> broken = REACHED; assert(broken != REACHED) :: else fi
#else
#define GOAL(number, is_met)	skip
#endif

/* As seen, and as durable. Sets of generations are masks. */
byte bytes, durable_bytes;
byte row, durable_row;
byte trash, durable_trash;
byte intent, durable_intent;
bit edge, durable_edge;
bit journal, durable_journal;		/* whether the changes that the journal holds, replayed, end with the reference */
/* What people were told */
bit put_is_owed, delete_is_owed;
byte minted = 0, cuts = CUTS, lives = 0, writing = 0;

#define ONE(g)		(1 << (g))
#define HAS(set, g)	((set) & ONE(g))

inline sync_bytes(g) { durable_bytes = (durable_bytes & ~ONE(g)) | (bytes & ONE(g)) }
inline sync_index() { durable_row = row; durable_trash = trash; durable_intent = intent; durable_edge = edge }
/* Whoever carries the journal carries every change up to now; an older one never comes behind a newer. */
inline write_journal() { journal = edge }
inline sync_journal() { durable_journal = journal }

inline sound()
{
	MUST(BYTES_ARE_THERE, !row || HAS(bytes, row));
	MUST(EDGES_ARE_SOUND, !edge || row)
}

inline sound_after_cut()
{
	sound();
	MUST(ANSWERS_SURVIVE, !put_is_owed || edge);
	MUST(ANSWERS_SURVIVE, !delete_is_owed || !edge);
	MUST(NO_GARBAGE_STAYS, !(bytes & ~(trash | intent | (row -> ONE(row) : 0))))
}

inline rebuild()
{
	trash = 0; intent = 0; row = 0; edge = journal;
	/* Of several copies any that is whole; a rebuild is durable before it counts. */
	if
	:: HAS(bytes, 1) -> row = 1
	:: HAS(bytes, 2) -> row = 2
	:: HAS(bytes, 3) -> row = 3
	:: bytes == 0
	fi;
	trash = bytes & ~(row -> ONE(row) : 0);
	sync_index();
	MUST(EDGES_ARE_SOUND, !edge || row)
}

/* Steps of a life that is over don't happen. */
#define STEP(what)	if :: atomic { life == lives -> what } :: atomic { life != lives -> goto reborn } fi

proctype pusher()
{
	byte g = 0, life = 0;

reborn:	atomic { g = 0; life = lives; writing = 0 };
	if
	:: atomic { minted < GENERATIONS && !edge && life == lives -> minted++; g = minted; intent = intent | ONE(g); writing = g }
	:: goto over
	fi;
#ifndef BREAK_INTENT_NOT_DURABLE
	STEP(sync_index());
#endif
#ifdef BREAK_ROW_BEFORE_BYTES
	STEP(intent = intent & ~ONE(g); row = g; edge = 1; sound());
	STEP(sync_index());
	STEP(bytes = bytes | ONE(g));
	STEP(sync_bytes(g));
#else
	STEP(bytes = bytes | ONE(g));
#ifndef BREAK_BYTES_NOT_DURABLE
	STEP(sync_bytes(g));
#endif
	STEP(intent = intent & ~ONE(g); if :: row -> trash = trash | ONE(g) :: else -> row = g fi; edge = 1; delete_is_owed = 0; sound());
#ifndef BREAK_ANSWER_BEFORE_INDEX
	STEP(sync_index());
#endif
#endif
#ifndef BREAK_ANSWER_BEFORE_JOURNAL
	STEP(write_journal());
	STEP(sync_journal());
#endif
	/* Unless it was deleted again meanwhile. */
	STEP(put_is_owed = edge; GOAL(1, minted > 1));
	goto reborn;
over:	atomic { writing = 0; g = 0 }
}

proctype others()
{
	byte g = 0, life = 0;

reborn:	atomic { g = 0; life = lives };
	if
	:: atomic { edge -> edge = 0; put_is_owed = 0 } -> goto delete_reference
	:: atomic { !edge && row && !HAS(trash, row) -> g = row; trash = trash | ONE(g); row = 0 } -> goto delete_bytes
	/* Given up by a process that is no more. */
	:: atomic { intent & ~ONE(writing) -> trash = trash | (intent & ~ONE(writing)); intent = intent & ONE(writing) } -> goto reborn
	:: atomic { trash -> if :: HAS(trash, 1) -> g = 1 :: HAS(trash, 2) -> g = 2 :: HAS(trash, 3) -> g = 3 fi } -> goto delete_bytes
	:: goto over
	fi;

delete_reference:
#ifndef BREAK_ANSWER_BEFORE_INDEX
	STEP(sync_index());
#endif
#ifndef BREAK_ANSWER_BEFORE_JOURNAL
	STEP(write_journal());
	STEP(sync_journal());
#endif
	STEP(delete_is_owed = !edge);
	goto reborn;

delete_bytes:
#ifndef BREAK_DELETE_BEFORE_INDEX
	STEP(sync_index());
#endif
#ifndef BREAK_DELETE_BEFORE_JOURNAL
	STEP(write_journal());
	STEP(sync_journal());
#endif
	STEP(bytes = bytes & ~ONE(g); sound());
#ifndef BREAK_FORGET_BEFORE_DELETE
	STEP(sync_bytes(g));
#endif
	STEP(trash = trash & ~ONE(g); GOAL(2, minted > 1));
	goto reborn;
over:	atomic { g = 0 }
}

/* What the kernel writes back without being asked. An index that is written back is so up to some commit, never in part. */
active proctype kernel()
{
	do
	:: atomic { HAS(bytes, 1) != HAS(durable_bytes, 1) -> sync_bytes(1) }
	:: atomic { HAS(bytes, 2) != HAS(durable_bytes, 2) -> sync_bytes(2) }
	:: atomic { HAS(bytes, 3) != HAS(durable_bytes, 3) -> sync_bytes(3) }
	:: atomic { durable_row != row || durable_trash != trash || durable_intent != intent || durable_edge != edge -> sync_index() }
	:: atomic { durable_journal != journal -> sync_journal() }
	:: atomic {
		cuts > 0 -> cuts--; lives++;
		bytes = durable_bytes; row = durable_row; trash = durable_trash; intent = durable_intent; edge = durable_edge;
		journal = durable_journal;
		writing = 0;
		if
		:: skip
		:: rebuild()
		fi;
		sound_after_cut();
		GOAL(3, cuts == 0 && minted == GENERATIONS && row)
	}
	:: break
	od
}

init { atomic { run pusher(); run others() } }
