//! expunged makes data end on time: it finds the records that are past their retention, deletes or
//! anonymizes them, and can prove what it did.
//!
//! This page is the map. It is read once, top to bottom, before anything else.
//!
//! # The way data takes
//!
//! ```text
//! configuration -> rule -> plan -> run -> ledger -> audit log
//!                   ^               |        |-> notices -> recipients -> receipts
//!                   |               |        '-> tombstones -> backup rotation
//!  cron slot, event, command,       '-> stores: tables, files, objects
//!  restart
//! ```
//!
//! Whatever wakes a rule (a slot of its schedule, a record falling due, an event, a command, a restart) leaves a
//! *request* in the ledger, and one pass, [`run::Runner::work_off`], works requests off. There is no
//! second path.
//!
//! A run takes due records in bounded batches, each in four steps that are durable one after the other:
//! the batch is taken inside an open transaction of the store ([`store::Store::take`]); its *intent*,
//! with the sealed keys, goes to the ledger ([`ledger::Ledger::intend`]); the store commits; the
//! *outcome* and its audit entry go to the ledger in one transaction ([`ledger::Ledger::settle`]). A
//! process that dies in between leaves an intent, and whoever holds the rule's lock next asks the
//! store what became of it. Files and objects have no transactions: there a batch is a list, committing it is
//! the deletion, and the outcome names what is gone. What belongs to a row goes between its intent and its
//! commit, so that a row which is still there finds the rest of it ([`run`], `run/attachments.rs`).
//!
//! Rows of other tables that a record takes along go in its transaction, before it, each table by statements of its own, and are
//! counted in the intent and in the outcome (`store/sql/dependents.rs`). A batch is as large as all that it removes.
//!
//! What took effect may wait a moment for its outcome, so that one durable write and one sync serve several
//! batches (`run/underway.rs`). No event is forgotten, and nothing is reported, before the outcome is
//! written.
//!
//! Whom a rule tells of its records is told by *notices*, which are written in the transaction of the outcome, from
//! values that the deleting statement gave and the intent has kept. A courier for each recipient tells them
//! ([`propagate`]), and each is over when the recipient says so ([`notice`]).
//!
//! What a backup could bring back is kept by its key, a *tombstone*, written with the outcome too, until every set of
//! backups that covers the store is free of it ([`residue`], [`rotate`]). A store that was restored is noticed and frozen,
//! and a *replay* has what came back taken again ([`run`], `run/replay.rs`).
//!
//! Events wait in the ledger, or are found in an application's own table. The run of an event rule *stands* for a
//! while and takes them as they come (`run/events.rs`).
//!
//! # What always holds
//!
//! 1. In doubt nothing is deleted: a starting point that is NULL, unreadable, a placeholder or in the
//!    future keeps its record, and the plan counts it with its reason.
//! 2. A plan cannot write: it reads through transactions, sessions and, where configured, credentials
//!    that the database itself keeps from writing.
//! 3. The predicate is inside the deleting statement, so a record that changed after it was found stays.
//!    The legal holds are inside it, too: once [`run::Runner::place`] has returned, no record that the
//!    hold covers is deleted, nor a row that goes along with another. Each intent names the *epoch* at
//!    which the holds were read and is refused when more is held by now; placing a hold raises the
//!    epoch and waits for the intents of older ones.
//! 4. Intent before effect, and each batch is settled exactly once. No step is recorded that
//!    [`transition::next`] does not allow, and nothing is resolved that does not replay through it.
//! 5. Success is read back: after a run, what is due is counted again.
//! 6. The audit log cannot be changed unnoticed and holds no personal data: keys appear in it only
//!    as keyed commitments.
//! 7. One bad thing stays one bad thing: rules, and stores, fail alone.
//!
//! # The modules, lowest first
//!
//! Each uses only what stands above it in this list; `tests/architecture.rs` guards that.
//!
//! | module | what it is |
//! |---|---|
//! | [`types`] | names and keys that cannot be built wrong |
//! | [`path`] | templates of paths: which files and objects are meant |
//! | [`schedule`] | slots of a cron expression: next, previous, missed; maintenance windows |
//! | [`pace`] | how much a batch takes and how long a run rests, by what is measured |
//! | [`anonymize`] | the strategies, and which of them only pseudonymize |
//! | [`breaker`] | whether a run may begin, or waits for approval |
//! | [`notice`] | what recipients are told, and where that stands |
//! | [`rule`] | a rule, and the cutoff of its retention |
//! | [`residue`] | deleted records in backups: how long they live on |
//! | [`restore`] | whether a store was restored: what a look at it tells |
//! | [`hold`] | a legal hold: what it covers, when it ends |
//! | [`config`] | files as people write them, made into valid rules and stores |
//! | [`event`] | what an application says has happened, and which rules listen |
//! | [`plan`] | what a rule would do now, with a reason for everything kept |
//! | `fault` | points at which tests have the process die |
//! | [`clock`] | the only reader of time and of randomness |
//! | [`upkeep`] | tasks that go on for as long as the process: one that a defect ends is begun anew |
//! | [`audit`] | entries, Merkle tree, signed checkpoint: functions over bytes |
//! | [`transition`] | the legal transitions of a run and its batches |
//! | [`keys`] | expunged's own secrets |
//! | [`outbound`] | the way out over HTTP, and where it does not lead |
//! | [`store`] | tables, files and objects: surveys, walks and batches |
//! | [`program`] | programs of the operator's: started without a shell, bounded, ended with all they started |
//! | [`recipient`] | who is told: Standard Webhooks, OpenDSR, calls over HTTP, programs, tables |
//! | [`backup`] | what the catalogues of backups list: restic, pgBackRest, Borg, barman, paths, programs |
//! | [`ledger`] | expunged's own database: requests, runs, batches, audit log |
//! | [`archive`] | an exported audit log, which anyone can verify |
//! | [`certificate`] | deletion certificates with their proof |
//! | [`check`] | a rule held against its live store |
//! | [`run`] | the pass: request -> plan -> intent -> apply -> outcome -> read back |
//! | [`propagate`] | recipients are told, and asked how far they are |
//! | [`rotate`] | sets of backups are listed, and what nobody can bring back is forgotten |
//! | [`publish`] | signed checkpoints leave the machine |
//! | [`lifecycle`] | signals and systemd |
//! | [`http`] | events and receipts come in over a Unix socket, and over TCP where that is wanted |
//! | [`daemon`] | timers and wake-ups -> passes |
//! | [`telemetry`] | logs |
//! | [`cli`] | one thin file per subcommand |
//!
//! # Choices worth knowing
//!
//! - **Parse once.** [`config`] stands above [`rule`] and decodes straight into it, with each error
//!   at its place in the file; there is no half-checked rule that could travel.
//! - **SQL for targets is built by [`store`]'s own small `Statement`**, not by a query builder: its
//!   type lets nothing in but literals of the program, quoted names from the live catalogue, bound
//!   values and the operator's parsed condition. `ctid` ranges, row comparisons and date functions of
//!   three dialects would have been raw strings in a builder anyway.
//! - **The ledger speaks to SQLite and PostgreSQL through one driver** (sqlx's `Any`), because its
//!   schema is ours and holds only integers, text and bytes. Targets need typed adapters.
//! - **A walk in physical order** is the default way through a table, because it wins by up to ten
//!   times over the usual loop along an index; where few records are due, the index finds them
//!   (`store/sql/walk.rs`). [`rule::AccessPath::choose`] decides by statistics, which may be wrong: a walk changes
//!   its way by what it meets, and the look back finds what was missed.
//! - **A partition that is dropped whole has its keys read first** (`run/partitions.rs`). A count and a digest would be
//!   quicker, and nobody could show any more that a record was in it, nor take it again after a restore. As rows do,
//!   its keys go sealed into intents, of one transaction; the drop is refused unless the rows are, under a lock, as many,
//!   all due, and of keys with the same sum. So nothing else in the ledger has to know of partitions.
//! - **A partition that may take rows to come is not dropped** unless the rule says so: only bounds that are over by
//!   the cutoff keep new rows from having no place.
//! - **A run is paced by its own batches** ([`pace`]): how long one holds its locks says how much the next takes, how long the
//!   store was at work on it says how long it rests, and the time in which the ledger is written counts as rest. What others
//!   hold is passed over and left to the next walk, so one row in use does not end a run. All of that is decided by a pure
//!   throttle; `run/pacing.rs` waits, and never in a transaction.
//! - **Of a run with several workers only the deleting statements go side by side** (`run/workers.rs`), each over a window and
//!   in a transaction of its own. Intents and commits stay one after the other, in one place: they are a tenth of the time,
//!   and so all that is proven of a run with one batch at a time holds.
//! - **A slot outside its rule's window is not claimed.** It stays due until the window opens ([`schedule`]); nothing has to
//!   remember it.
//! - **A rule's lock vanishes with its process** (a locked file, or a session of PostgreSQL), so there
//!   are no leases to wait for and nothing to clean up after a crash.
//! - **The ticker only wakes.** tokio-cron-scheduler calls the loop each minute; which slot is due is
//!   computed by croner from the last one claimed, so daylight saving, downtime and two daemons on
//!   one ledger come out right.
//! - **A saved plan names its records by sums.** Each range of keys has the sum of its records' keyed
//!   commitments; sums add up, so any row of ranges can be taken in one statement and held against the
//!   plan, with flat memory and without a list of keys ([`plan::saved`]).
//! - **Whoever waits for approval waits in the ledger.** The request is closed while a run waits and
//!   opened again by whoever approves; the pass that works requests off is the same.
//! - **One language for paths** ([`path`]): what a rule looks for, what belongs to a row and what an event
//!   names are templates; files and objects are judged by one pure function (`store/search.rs`).
//! - **S3 is spoken by a small client of our own** on reqsign and reqwest: opendal tidies keys up, and
//!   does not report what became of each in a bulk deletion. GCS and Azure go through opendal.
//! - **A notification only wakes.** A source's table is looked at anew each time, a little way back upon a
//!   notification and by the whole overlap at intervals, so nothing depends on who heard what.
//! - **Notices are not leased, their recipient is locked.** One courier holds the recipient's lock, which vanishes with
//!   its process, so nothing has to run out after a crash; what was told and not written down is told again, under
//!   the same id. Lists go one after the other, single messages side by side, but for those about the same subject.
//! - **Rows of a recipient's table are removed under a lock that holds wait for**: a hold that is placed returns when
//!   all who had read the holds before are done (`ledger/lock.rs`).
//! - **Who sends a receipt needs no token.** Its signature says whose it is, and is verified before anything is
//!   parsed; what is not heeded is counted, and written down at most once a second (`http/receipts.rs`).
//! - **A certificate adds up entries of the log**: what a batch owes each recipient, less what is completed or exempt.
//!   The ledger's columns, which can be changed without a trace, only have to agree.
//! - **One moment says how far a set of backups is clear.** Whatever started earlier is gone earlier, or is named as
//!   permanent; so there is no row for each deletion and set, and what is owed is computed when somebody asks. Only two
//!   successive listings that can be believed move it on; one that shows an older backup moves it back at once.
//! - **A restore is a freeze, not a guess.** Whatever speaks for one (another server or timeline without the marker, an old
//!   marker, deleted keys that are there again) stops the rules of the store until a person has looked; the hold epoch is
//!   raised with it, so a batch in flight is refused at its intent.
//! - **A replay takes by tombstone and bound**: the key alone could be somebody else's by now, so the starting point must lie
//!   before the cutoff of the run that took the record.
//! - **A catalogue of backups is taken for less than it says** ([`backup`]): a vague start is the earliest that it can be,
//!   what is not understood is no listing. What restic has beyond its snapshots' needs is counted from its index, because
//!   asking its `prune` takes a lock that backups would run into.
//! - Deliberately absent so far: erasure requests.

#![warn(clippy::pedantic)]
#![allow(clippy::module_name_repetitions, clippy::must_use_candidate)]
#![allow(clippy::doc_markdown, reason = "PostgreSQL, MariaDB and SQLite are names, not code")]

pub mod anonymize;
pub mod archive;
pub mod audit;
pub mod backup;
pub mod breaker;
pub mod certificate;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod event;
mod fault;
pub mod hold;
pub mod http;
pub mod keys;
pub mod ledger;
pub mod lifecycle;
pub mod notice;
pub mod outbound;
pub mod pace;
pub mod path;
pub mod plan;
pub mod program;
pub mod propagate;
pub mod publish;
pub mod recipient;
pub mod residue;
pub mod restore;
pub mod rotate;
pub mod rule;
pub mod run;
pub mod schedule;
pub mod store;
pub mod telemetry;
pub mod transition;
pub mod types;
pub mod upkeep;
