//! Who gives a command: the Unix account, for the ledger.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// The account of this process, and who became it through sudo. An account without a name has its
/// number.
pub(crate) fn account() -> String {
    // The process's own folder belongs to the user it runs as.
    let uid = fs::metadata("/proc/self").map(|folder| folder.uid()).ok();
    let Some(uid) = uid else { return "an unknown account".to_owned() };
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = name_of(uid, &accounts).unwrap_or_else(|| format!("uid {uid}"));
    // Only root's word counts for who was there before: anybody can set a variable.
    match std::env::var("SUDO_USER") {
        Ok(before) if uid == 0 && !before.is_empty() => format!("{before} (as {name})"),
        _ => name,
    }
}

fn name_of(uid: u32, accounts: &str) -> Option<String> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_number() {
        let accounts = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1000, accounts).as_deref(), Some("ann"));
        assert_eq!(name_of(7, accounts), None);
    }
}
