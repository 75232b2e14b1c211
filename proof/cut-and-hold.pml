/*
 * Cut-and-hold: one instant for many servers, with leases, restarts, lost and repeated messages, and other coordinators.
 *
 * Safety, without a clock: when a write is sent, note which writes somebody may know of by then, as they are acknowledged
 * or as a read has shown them. A committed cut that has the write has all of these.
 *
 * How it is kept small, and still has every behaviour that matters:
 * - Messages are facts. What was sent may arrive at any later time, any number of times, or never: loss, delay,
 *   repetition and change of order in one. Whoever takes no further step has crashed.
 * - One cut is judged. Whatever another coordinator is up to, or the same in another attempt, servers only ever see `cut`
 *   and `release` of a ticket of its own; those may come at any time. One that gives up is such another.
 * - All stops when the cut is judged, or can no longer be committed.
 * - Servers are alike: they are numbered in the order in which writes first go to them.
 *
 * Each of these, when defined, takes away a part of the protocol, and safety breaks: RELEASE_EARLY, ONE_AT_A_TIME,
 * ANY_ANSWER, STALE_EPOCHS, RELEASE_BY_EPOCH, HOLD_ACKS (not with NO_READS), NO_DRAIN, SNAPSHOT_BY_TICKET.
 * NO_LEASE breaks liveness. README.md explains them.
 */

#ifndef SERVERS
#define SERVERS 2
#endif
#ifndef WRITES
#define WRITES 3
#endif
#ifndef OTHERS
#define OTHERS 1         /* Other coordinators. */
#endif
#ifndef EPOCHS
#define EPOCHS 2
#endif

/* Sets of small numbers. */
#define ALL           ((1 << SERVERS) - 1)
#define has(set, i)   (((set) >> (i)) & 1)
#define add(set, i)   set = (set) | (1 << (i))
#define drop(set, i)  set = (set) & ~(1 << (i))

/* --- Clients --- */

byte sent;               /* How many writes were sent: they are 0 .. sent - 1. */
byte place[SERVERS];     /* Which writes went to a server. */
byte before[WRITES];     /* Which writes somebody may have known of when this one was sent. */
byte stored;             /* Which writes are on their device. */
byte known;              /* Which writes are acknowledged, or were read. Of no interest once the last write is sent. */

inline learn(w) {
	if
	:: sent < WRITES -> add(known, w)
	:: else
	fi
}

/* --- Coordinators: src/backup/cut.ts. Number 0 is the one whose cut is judged. --- */

mtype = { asleep, cutting, releasing };
mtype phase[OTHERS + 1];
byte epoch[OTHERS + 1];

/* Of coordinator 0: */
byte got;                /* Whose confirmation has arrived. */
byte yes;                /* Who has answered that the barrier was held without a break. */
byte fixed;              /* Which writes the contents have that were handed out. */
bit lost;                /* Whether contents that were handed out are gone. */

/* --- Servers: src/servers/barrier.ts, src/servers/server.ts --- */

#define NOBODY (OTHERS + 1) /* Tickets are numbers of coordinators: each asks for one cut. */

byte admitted[SERVERS];  /* Writes admitted and not finished. */
byte seen[SERVERS];      /* The highest epoch seen. */
byte hold[SERVERS];      /* The ticket whose barrier is up. */
bit confirmed[SERVERS];  /* Whether the contents are fixed for that ticket. */
bit vouched[SERVERS];    /* Whether coordinator 0 is to be told that its barrier was held without a break. */

#define up(s) (hold[s] != NOBODY)

/* --- The protocol, and what is left of it without one of its parts --- */

#ifdef ONE_AT_A_TIME
#define cutSent(c, s)     (phase[c] != asleep && (c != 0 || s == 0 || has(yes, s - 1)))
#else
#define cutSent(c, s)     (phase[c] != asleep)
#endif

#if defined(RELEASE_EARLY) || defined(ONE_AT_A_TIME)
#define releaseSent(c, s) (phase[c] == releasing || (c == 0 && has(got, s)))
#else
#define releaseSent(c, s) (phase[c] == releasing)
#endif

#ifdef LIVENESS
#define ONGOING
#else
#define ONGOING provided (yes != ALL && !lost)
#endif

#ifdef STALE_EPOCHS
#define accepts(s, c)     true
#else
#define accepts(s, c)     (epoch[c] > seen[s])
#endif

#ifdef RELEASE_BY_EPOCH
#define same(a, b)        ((a) != NOBODY && epoch[a] == epoch[b])
#else
#define same(a, b)        ((a) == (b))
#endif

#ifdef ANY_ANSWER
#define vouches(s)        true
#else
#define vouches(s)        vouched[s]
#endif

#ifdef HOLD_ACKS
#define admits(s)         true
#define answers(s)        !up(s)
#define drained(s)        ((admitted[s] & ~stored) == 0)
#else
#define admits(s)         !up(s)
#define answers(s)        true
#ifdef NO_DRAIN
#define drained(s)        true
#else
#define drained(s)        (admitted[s] == 0)
#endif
#endif

/* --- Steps of a server --- */

inline lower(s, isUnbroken) {
	vouched[s] = (hold[s] == 0 -> isUnbroken : vouched[s]);
	hold[s] = NOBODY;
	confirmed[s] = 0
}

inline raise(s, c) {
	printf("server %d: barrier up for coordinator %d, epoch %d\n", s, c, epoch[c]);
	if
	:: up(s) -> lower(s, 0)
	:: else
	fi;
	seen[s] = epoch[c];
	hold[s] = c
}

/* Fixes the contents and confirms, which arrives or is lost. Of several confirmations of one server the first counts. */
inline confirm(s) {
	confirmed[s] = 1;
	if
	:: hold[s] == 0 && phase[0] == cutting && !has(got, s) ->
		printf("server %d: contents fixed: %d\n", s, stored & place[s]);
		fixed = fixed | (stored & place[s]);
		add(got, s)
#ifdef SNAPSHOT_BY_TICKET
	:: hold[s] == 0 && has(got, s) ->
		printf("server %d: contents fixed anew: %d\n", s, stored & place[s]);
		fixed = (fixed & ~place[s]) | (stored & place[s])
#endif
	:: printf("server %d: contents fixed, and nobody learns it\n", s)
	fi
}

inline release(s, c) {
	printf("server %d: barrier released by coordinator %d\n", s, c);
	lower(s, confirmed[s])
}

/* What is said to coordinator 0, at once or when it repeats the `release`. */
inline answer(s) {
	vouched[s] = 0;
	add(yes, s)
}

/* What was admitted is never answered, what was fixed is gone, all is forgotten but the device. */
inline restart(s) {
	printf("server %d: restarts\n", s);
	admitted[s] = 0;
	seen[s] = 0;
	hold[s] = NOBODY;
	confirmed[s] = 0;
	vouched[s] = 0;
#ifndef SNAPSHOT_BY_TICKET
	lost = lost | has(got, s)
#endif
}

#define releases(s, c) (releaseSent(c, s) && up(s) && same(hold[s], c))

proctype Server(byte s) ONGOING {
	do
	:: atomic { cutSent(0, s) && accepts(s, 0) -> raise(s, 0) }
	:: atomic { releases(s, 0) -> release(s, 0) }
	:: atomic { releaseSent(0, s) && vouches(s) && !has(yes, s) -> answer(s) }
#if OTHERS > 0
	:: atomic { cutSent(1, s) && accepts(s, 1) -> raise(s, 1) }
	:: atomic { releases(s, 1) -> release(s, 1) }
#endif
#if OTHERS > 1
	:: atomic { cutSent(2, s) && accepts(s, 2) -> raise(s, 2) }
	:: atomic { releases(s, 2) -> release(s, 2) }
#endif
	:: atomic { up(s) && !confirmed[s] && drained(s) -> confirm(s) }
	:: atomic { restart(s) }
#ifdef LIVENESS
	:: up(s) /* Nothing need ever arrive, and no server need restart. */
#endif
	od
}

/* A process of its own, so that it can be demanded of it alone to take its turn. */
proctype Lease(byte s) ONGOING {
	do
	:: atomic {
#ifdef NO_LEASE
		false ->
#else
		up(s) ->
#endif
		printf("server %d: the lease of coordinator %d runs out\n", s, hold[s]);
		lower(s, 0)
	}
	od
}

/* --- Steps of clients --- */

/*
 * One write; see #change in src/servers/server.ts. A write that is parked might as well be sent when it is admitted:
 * then more has to be in a cut that has it.
 */
proctype Write(byte w) ONGOING {
	byte s;
	atomic {
		if
		:: sent == w && admits(0) -> s = 0
		:: sent == w && place[0] != 0 && admits(1) -> s = 1
#if SERVERS > 2
		:: sent == w && place[1] != 0 && admits(2) -> s = 2
#endif
		fi;
		printf("write %d: sent to server %d, known: %d\n", w, s, known);
		sent++;
		before[w] = known;
		known = (sent < WRITES -> known : 0);
		add(place[s], w);
		add(admitted[s], w)
	}
	do
	:: atomic { has(admitted[s], w) && !has(stored, w) -> printf("write %d: stored\n", w); add(stored, w) }
	:: atomic {
		has(admitted[s], w) && has(stored, w) && answers(s) ->
		printf("write %d: acknowledged\n", w);
		drop(admitted[s], w);
		learn(w)
	}
	od
}

/* Reads are never parked. */
proctype Read(byte w) ONGOING {
	do
	:: atomic { has(stored & ~known, w) && sent < WRITES -> printf("write %d: read\n", w); learn(w) }
	od
}

/* --- Steps of coordinators --- */

/* The statuses that were asked for may be old, so the epoch may be any. */
inline cut(c) {
	if
	:: epoch[c] = 1
#if EPOCHS > 1
	:: epoch[c] = 2
#endif
#if EPOCHS > 2
	:: epoch[c] = 3
#endif
	fi;
	printf("coordinator %d: cut of epoch %d\n", c, epoch[c]);
	phase[c] = cutting
}

/* Whatever may have been known when a write of the cut was sent is in the cut. */
inline judge() {
	byte w, required;
	d_step {
		w = 0;
		required = 0;
		do
		:: w < sent && has(fixed, w) -> required = required | before[w]; w++
		:: w < sent && !has(fixed, w) -> w++
		:: else -> break
		od;
		w = 0;
		printf("coordinator 0: committed: %d, required: %d\n", fixed, required)
	}
	assert((required & ~fixed) == 0);
#ifdef COVERED
	/* Not true: a cut may have a write that was sent when another was known, and lack one that is stored. */
	assert(required == 0 || (stored & ~fixed) == 0);
#endif
	required = 0
}

proctype Coordinator() {
	/* 1. `cut` to every server. */
	atomic { cut(0) }
	/* 2. All have confirmed. 3. `release` to every server. */
	atomic { got == ALL -> printf("coordinator 0: release\n"); phase[0] = releasing }
	/* 4. Every server vouches for its barrier, and what it has fixed could be read to the end. */
	atomic { yes == ALL && !lost -> judge() }
}

proctype Other(byte c) ONGOING {
	atomic { cut(c) }
	atomic { printf("coordinator %d: release\n", c); phase[c] = releasing }
}

init {
	atomic {
		hold[0] = NOBODY; run Server(0); run Lease(0);
		hold[1] = NOBODY; run Server(1); run Lease(1);
#if SERVERS > 2
		hold[2] = NOBODY; run Server(2); run Lease(2);
#endif
		phase[0] = asleep; run Coordinator();
#if OTHERS > 0
		phase[1] = asleep; run Other(1);
#endif
#if OTHERS > 1
		phase[2] = asleep; run Other(2);
#endif
		run Write(0); run Write(1);
#if WRITES > 2
		run Write(2);
#endif
#if WRITES > 3
		run Write(3);
#endif
#ifndef NO_READS
		run Read(0); run Read(1);
#if WRITES > 2
		run Read(2);
#endif
#if WRITES > 3
		run Read(3);
#endif
#endif
	}
}

#ifdef LIVENESS
ltl comes_down { [] (up(0) -> <> !up(0)) }
#endif
