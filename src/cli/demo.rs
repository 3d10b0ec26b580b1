//! `expunged demo`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::clock;
use crate::config::Config;
use crate::rotate;

use super::output::{self, BOLD, DIM, GREEN, RED, RESET};
use super::{
    CliError, Common, Exit, apply, audit, certificate, check, open_ledger, plan, replay, run,
    stores,
};

mod backups;
mod data;
mod folder;
mod newsletter;
mod photos;
mod proof;
mod random;

use backups::Copies;
use folder::{BACKUPS, CONFIG, DATABASE, Folder, PLAN, SECRET, UPLOADS};
use proof::Count;

/// The configuration that the demo leaves behind.
const CONFIGURATION: &str = include_str!("demo/expunged.toml");
/// Entries of the audit log that are shown.
const EXCERPT: u32 = 12;

/// Build a realistic example in a folder and run check, plan, apply and the audit log on it
///
/// The folder stays, to go on with. Run again, it is built anew; a folder that holds anything else is
/// left alone.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The folder to build it in.
    #[arg(long, value_name = "FOLDER", default_value = "expunged-demo")]
    dir: PathBuf,
    /// Only build it, and carry nothing out.
    #[arg(long)]
    build_only: bool,
}

pub(crate) async fn main(common: &Common, args: Args) -> Result<Exit, CliError> {
    if common.json {
        let text = "`demo` tells a story and has no JSON; the commands that it shows have";
        return Err(CliError::Usage(text.to_owned()));
    }
    let now = clock::now();
    // Without a trailing slash, which would follow a link.
    let dir: PathBuf = args.dir.components().collect();
    let address = newsletter::Address::take()?;
    let folder = Folder::prepare(&dir, &address.put_into(CONFIGURATION))?;
    folder.keep_secret(SECRET, &newsletter::secret())?;
    build(&folder, &dir, now).await?;
    let tour = Tour {
        common: Common { config: folder.file(CONFIG), json: false },
        shown: quoted(&folder.file(CONFIG)),
        database: folder.file(DATABASE),
        uploads: folder.file(UPLOADS),
        secret: folder.file(SECRET),
        backups: folder.file(BACKUPS),
        now,
    };
    if args.build_only {
        introduce();
        tour.what_next();
        return Ok(Exit::Fine);
    }
    let before = tour.overdue().await?;
    introduce();
    let all_gone = tour.show(address).await?;
    let after = tour.overdue().await?;
    let proved = prove(&before, &after) && all_gone;
    tour.what_next();
    Ok(if proved { Exit::Fine } else { Exit::Failed })
}

/// Builds the database, the ledger and the keys.
async fn build(folder: &Folder, dir: &Path, now: Timestamp) -> Result<(), CliError> {
    let bar = output::bar(true, format!("building {DATABASE}"), "rows");
    bar.set_length(data::ROWS as u64);
    data::build(&folder.file(DATABASE), now, &|rows| bar.set_position(rows as u64)).await?;
    bar.finish_and_clear();
    let doing = || "upload photos".to_owned();
    photos::build(&folder.file(UPLOADS), now)
        .map_err(|source| CliError::Io { doing: doing(), source })?;
    let copies = Copies { folder: &folder.file(BACKUPS), database: &folder.file(DATABASE) };
    copies
        .build(now)
        .map_err(|source| CliError::Io { doing: "copy the database".into(), source })?;
    let config = Config::load(&folder.file(CONFIG), std::iter::empty())?;
    open_ledger(&config).await?.close().await;
    let rows = output::number(data::ROWS as u64);
    let text = format!(
        "Built in {}: the database of a small service that turns photos into portraits, with {rows} \
         rows of invented people over five years, its folder of uploads, a copy of the database for each night of \
         the last week, and expunged's configuration, ledger and keys.",
        dir.display()
    );
    println!("{}", output::hanging(&text, 0));
    Ok(())
}

/// Says how the program is called here, where that is not by its name alone.
fn introduce() {
    let program = std::env::args().next().unwrap_or_default();
    if program.contains('/') {
        println!("{}", output::hanging(&format!("Below, `expunged` stands for {program}."), 0));
    }
}

/// The commands, one after the other.
struct Tour {
    common: Common,
    /// The configuration's path, as one types it.
    shown: String,
    database: PathBuf,
    uploads: PathBuf,
    secret: PathBuf,
    backups: PathBuf,
    now: Timestamp,
}

impl Tour {
    /// What is older than the policy allows, counted without expunged.
    async fn overdue(&self) -> Result<Vec<Count>, CliError> {
        let mut counts = proof::overdue(&self.database, self.now).await?;
        let what = "files in uploads/, each of a face photo";
        counts.push(Count { what, rows: photos::count(&self.uploads), enforced: true });
        Ok(counts)
    }

    /// Returns whether every photo was gone in time, and the recipient has done what it was told.
    async fn show(&self, newsletter: newsletter::Address) -> Result<bool, CliError> {
        self.heading(
            "check --quiet",
            "Each rule is held against the live database before anything else: columns, types, keys, \
             indexes, foreign keys. Look for the index that somebody forgot, with the statement that \
             makes it, and for what a deletion takes along.",
        );
        let exit = check::main(&self.common, check::Args::quiet()).await?;
        tell(&exit);

        let saved = self.common.config.with_file_name(PLAN);
        self.heading(
            &format!("plan --out {}", quoted(&saved)),
            "What a run would do, and why the rest stays. The database is opened read-only. Look at \
             the records that are kept because they have no starting point, or one that cannot be \
             right: in doubt, nothing is deleted. The plan is saved: signed, and good for a day.",
        );
        let exit = plan::main(&self.common, plan::Args::saved(saved.clone())).await?;
        tell(&exit);

        self.heading(
            "run",
            "A rule that has never acted waits before its first record until somebody approves it, \
             and so does one that would take more than a tenth of its table. The rule in observe \
             mode counts and leaves its records alone.",
        );
        let exit = run::main(&self.common, run::Args::default()).await?;
        tell(&exit);

        self.heading(
            &format!("apply {}", quoted(&saved)),
            "Somebody has looked at the plan: it is carried out exactly as it was saved, in small \
             batches, each written to the ledger before it takes effect. A record that changed since \
             stays, and one that the plan does not name is never touched.",
        );
        let exit = apply::main(&self.common, apply::Args::of(saved)).await?;
        tell(&exit);

        self.heading(
            "event synthesis.finished …",
            "Photos are uploaded, and the application says of each that its synthesis is over. Photo and \
             thumbnails go at once: the event is written down first, so that nothing is lost whatever is \
             killed, and the deletion is announced in the ledger as any other.",
        );
        let config = self.common.load()?;
        let all_gone = photos::show(&config, &self.uploads).await?;

        self.heading(
            "daemon",
            "Whoever was given the data is told to delete it: here a newsletter service, of each account that is \
             gone. The notices were written with the deletions, so that none is without the other. The service \
             is busy twice, then takes them, and says in a signed receipt that it is done. The demo plays the \
             service, and the part of the daemon that tells it.",
        );
        let all_told = newsletter::show(&config, newsletter, &self.secret).await?;

        self.heading(
            "backups check",
            "What was deleted lives on in the backups that were made before. A copy of the database is made each \
             night and kept for a week: the set is listed, and the line shows until when it holds what was deleted.",
        );
        let exit = super::backups::main(&self.common, super::backups::Args::check()).await?;
        tell(&exit);

        self.heading(
            "certificate -b inactive-accounts",
            "For the file: what was deleted, how that was verified, and that every recipient is done. Without -b \
             the proof that the audit log says so comes with it. None is issued for a run that is not complete \
             and verified.",
        );
        let brief = certificate::Args::brief("inactive-accounts");
        let exit = certificate::main(&self.common, brief).await?;
        tell(&exit);

        let none_came_back = self.restore().await?;
        self.let_backups_rotate().await?;

        self.heading(
            "plan --brief",
            "Planned again. Nothing is due but what the rule in observe mode leaves alone.",
        );
        let exit = plan::main(&self.common, plan::Args::all(true)).await?;
        tell(&exit);

        self.heading(
            &format!("audit log --limit {EXCERPT}"),
            "Whatever happened is in the audit log, without personal data: a batch stands there as \
             keyed commitments to its records.",
        );
        let excerpt = audit::LogArgs::newest(EXCERPT);
        let exit = audit::main(&self.common, audit::Command::Log(excerpt)).await?;
        tell(&exit);

        self.heading(
            "audit verify",
            "The log is a Merkle tree under a signed checkpoint. Whoever changes, removes or inserts \
             an entry is found out.",
        );
        let exit =
            audit::main(&self.common, audit::Command::Verify(audit::VerifyArgs::default())).await?;
        tell(&exit);
        Ok(all_gone && all_told && none_came_back)
    }

    fn copies(&self) -> Copies<'_> {
        Copies { folder: &self.backups, database: &self.database }
    }

    /// Somebody puts an old copy back. Says whether nobody came back by that in the end.
    async fn restore(&self) -> Result<bool, CliError> {
        let failed = |source| CliError::Io { doing: "put a copy back".to_owned(), source };
        let command = self.copies().put_back(self.now).map_err(failed)?;
        shell(
            &command,
            "Somebody restores last week's copy, for a reason of their own. With it everybody is back who had \
             been deleted since.",
        );
        for count in self.overdue().await?.iter().filter(|count| count.enforced && count.rows > 0) {
            println!("{:>7}  {}", output::number(count.rows), count.what);
        }
        self.heading(
            "run inactive-accounts",
            "expunged notices: the keys of what was deleted are kept until the backups have rotated, sealed, and \
             some of them are there again. The rules of the store do not run until somebody has looked.",
        );
        let rule = "inactive-accounts".parse().map_err(|_| CliError::NoRules)?;
        let exit = run::main(&self.common, run::Args::of(rule)).await?;
        tell(&exit);
        self.heading(
            "replay app --yes",
            "What had been deleted is deleted again, and what had been anonymized is anonymized again: by the same \
             rules, announced in the ledger as any other run, with legal holds heeded.",
        );
        let store = "app".parse().map_err(|_| CliError::NoRules)?;
        let exit = replay::main(&self.common, replay::Args::of(store)).await?;
        tell(&exit);
        let back: u64 =
            self.overdue().await?.iter().filter(|one| one.enforced).map(|one| one.rows).sum();
        println!();
        let (style, verdict) = match back {
            0 => (
                GREEN,
                "Counted again with SQL that shares nothing with expunged's own: nobody came back."
                    .to_owned(),
            ),
            back => (RED, format!("{back} records are still there: please report it.")),
        };
        anstream::println!("{style}{}{RESET}", output::hanging(&verdict, 0));
        Ok(back == 0)
    }

    /// Nights go by, until no copy is left that was made before the deletions.
    async fn let_backups_rotate(&self) -> Result<(), CliError> {
        let failed = |source| CliError::Io { doing: "copy the database".to_owned(), source };
        self.copies().make(clock::now()).map_err(failed)?;
        let config = self.common.load()?;
        let ledger = open_ledger(&config).await?;
        while self.copies().rotate(self.now).map_err(failed)? {
            for set in config.backups.values() {
                rotate::list(&ledger, &stores(&config), set).await?;
            }
        }
        ledger.close().await;
        self.heading(
            "backups check",
            "Nights go by; the demo lets them pass at once, and lists the set each night. The copies from before the \
             deletions rotate away one by one. That the last of them is not listed any more proves nothing yet: the \
             next listing confirms it. Then the kept keys are destroyed.",
        );
        let exit = super::backups::main(&self.common, super::backups::Args::check()).await?;
        tell(&exit);
        Ok(())
    }

    fn heading(&self, command: &str, text: &str) {
        anstream::println!("\n\n{BOLD}$ expunged --config {} {command}{RESET}", self.shown);
        for line in output::wrap(text, 0) {
            anstream::println!("{DIM}{line}{RESET}");
        }
        println!();
    }

    fn what_next(&self) {
        let ledger = quoted(&self.common.config.with_file_name("ledger.db"));
        anstream::println!("\n\n{BOLD}What to try next{RESET}\n");
        let steps = [
            ("Spare yourself the --config.", format!("export EXPUNGED_CONFIG={}", self.shown)),
            ("Read the rules; every key is explained.", format!("less {}", self.shown)),
            (
                "Arm the rule abandoned-carts: write mode = \"enforce\" in it. Its first run waits for you.",
                "expunged run abandoned-carts".to_owned(),
            ),
            ("", "expunged approve abandoned-carts --why \"looked at the plan\"".to_owned()),
            ("See which records they are.", "expunged plan abandoned-carts --sample 5".to_owned()),
            (
                "See what will be due on a day to come.",
                format!("expunged plan --at {}", self.in_a_month()),
            ),
            (
                "Keep what is about one person, whatever a rule says, and plan again.",
                "expunged hold place --subject 4711 --authority Counsel --reference 26-1"
                    .to_owned(),
            ),
            ("See what the backups still hold of what was deleted.", "expunged backups".to_owned()),
            ("Ask what became of one record.", "expunged why inactive-accounts 4711".to_owned()),
            ("Ask the log.", "expunged audit log --kind batch_done".to_owned()),
            ("Let the rules run on their schedules; Ctrl-C ends it.", "expunged daemon".to_owned()),
            (
                "Tamper with the audit log; a trigger must go first. The change is found.",
                format!("sqlite3 {ledger} \"DROP TRIGGER audit_entry_stays\""),
            ),
            ("", format!("sqlite3 {ledger} \"DELETE FROM audit_entry WHERE position=9\"")),
            ("", "expunged audit verify".to_owned()),
        ];
        for (text, command) in steps {
            if !text.is_empty() {
                println!("  {}", output::hanging(text, 2));
            }
            anstream::println!("    {BOLD}{command}{RESET}");
        }
        println!();
        let text = "On your own data: add a [store.NAME] with the URL of a database and a [rule.NAME] in \
                    observe mode, then check and plan. Until you write \"enforce\", nothing is deleted.";
        println!("{}", output::hanging(text, 0));
    }

    fn in_a_month(&self) -> String {
        let later = self.now + jiff::SignedDuration::from_hours(24 * 30);
        later.strftime("%Y-%m-%d").to_string()
    }
}

/// A command that is none of expunged's, and what it is about.
fn shell(command: &str, text: &str) {
    anstream::println!("\n\n{BOLD}$ {command}{RESET}");
    for line in output::wrap(text, 0) {
        anstream::println!("{DIM}{line}{RESET}");
    }
    println!();
}

/// Says the exit code, which scripts go by.
fn tell(exit: &Exit) {
    let text = match exit {
        Exit::Fine => "0",
        Exit::Failed => "1: not every rule was carried out",
        Exit::Two => "2: something is due",
    };
    anstream::println!("{DIM}(exit code {text}){RESET}");
}

/// Prints what was counted before and after, and says whether it is as it must be.
fn prove(before: &[Count], after: &[Count]) -> bool {
    anstream::println!("\n\n{BOLD}What was proved{RESET}");
    let text = "Counted in app.db with SQL that shares nothing with expunged's own, and in the folder of uploads:";
    anstream::println!("{DIM}{}{RESET}\n", output::hanging(text, 0));
    let mut table = output::table(&["older than the policy allows", "before", "now", ""]);
    let mut proved = true;
    for (before, after) in before.iter().zip(after) {
        let well = if after.enforced { after.rows == 0 } else { after.rows == before.rows };
        proved &= well;
        table.add_row(vec![
            after.what.into(),
            output::right(output::number(before.rows)),
            output::right(output::number(after.rows)),
            match (well, after.enforced) {
                (true, true) => "",
                (true, false) => "only observed",
                (false, _) => "WRONG",
            }
            .into(),
        ]);
    }
    output::print_table(table, &[]);
    println!();
    let (style, verdict) = if proved {
        (GREEN, "All that was due is gone, and nothing that was only observed.")
    } else {
        (RED, "This is not as it should be: please report it.")
    };
    anstream::println!("{style}{verdict}{RESET}");
    proved
}

/// A path as one types it in a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+@%,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
