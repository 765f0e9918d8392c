//! Records are only ever added. What git knows tells whether one was changed or removed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// The rule's text; it holds for what was committed after it.
const RULE: &str = "benches/record/README.md";
const RECORDS: &str = "benches/record/*.csv";

/// Fails where a committed record was changed or removed, as far as can be seen: outside of git, or in a clone without its history,
/// less of it is looked at.
pub fn check(root: &Path) -> Result<()> {
    let Some(top) = git(root, &["rev-parse", "--show-toplevel"]) else {
        return Ok(());
    };
    let is_this =
        |top: &str| Path::new(top).canonicalize().is_ok_and(|top| root.canonicalize().is_ok_and(|root| root == top));
    if !is_this(top.trim()) || git(root, &["rev-parse", "--verify", "--quiet", "HEAD"]).is_none() {
        // Inside of another repository, or before the first commit.
        return Ok(());
    }
    let changed = git(root, &["diff", "--no-renames", "--diff-filter=MD", "--name-only", "HEAD", "--", RECORDS])
        .unwrap_or_default();
    if let Some(path) = changed.lines().next() {
        bail!(
            "{path} is committed and now differs: records are only ever added (see {RULE}). \
             Restore it by `git checkout HEAD -- {path}` and put the new measurement into a file of its own"
        );
    }
    if git(root, &["rev-parse", "--is-shallow-repository"]).is_none_or(|answer| answer.trim() != "false") {
        return Ok(());
    }
    let added = git(root, &["log", "--diff-filter=A", "--format=%H", "--", RULE]).unwrap_or_default();
    let Some(start) = added.lines().last() else {
        return Ok(());
    };
    let range = format!("{start}..HEAD");
    // Only commits that come after the rule, not those of branches that were begun before it.
    let arguments = [
        "log",
        "--ancestry-path",
        "--no-renames",
        "--diff-filter=MD",
        "--format=%h %s",
        "--name-only",
        &range,
        "--",
        RECORDS,
    ];
    let found = git(root, &arguments).unwrap_or_default();
    let lines: Vec<&str> = found.lines().filter(|line| !line.is_empty()).collect();
    if let [commit, path, ..] = lines[..] {
        bail!("the commit \"{commit}\" changed or removed {path}: records are only ever added (see {RULE})");
    }
    Ok(())
}

/// What git prints, or none where there is no git or it fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::tables::tests::folder;

    const RECORD: &str = "benches/record/cpu/2026-01-01.csv";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(root: &Path, message: &str) {
        let who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        git(root, &["add", "-A"]).unwrap();
        git(root, &[&who[..], &["commit", "-q", "-m", message]].concat()).unwrap();
    }

    /// A repository whose record was changed before the rule was there.
    fn repository(name: &str) -> PathBuf {
        let root = folder(name);
        git(&root, &["init", "-q"]).expect("this test needs git");
        write(&root, RECORD, "a\n1\n");
        commit(&root, "record");
        write(&root, RECORD, "a\n2\n");
        commit(&root, "change before the rule");
        write(&root, RULE, "append only\n");
        commit(&root, "rule");
        root
    }

    #[test]
    fn added_records_are_fine_and_changes_before_the_rule_are_past() {
        let root = repository("history_added");
        check(&root).unwrap();
        write(&root, "benches/record/cpu/2026-01-02.csv", "a\n3\n");
        check(&root).unwrap();
        commit(&root, "another record");
        check(&root).unwrap();
    }

    #[test]
    fn a_change_of_a_committed_record_is_found_before_and_after_its_commit() {
        let root = repository("history_changed");
        write(&root, RECORD, "a\n4\n");
        let said = check(&root).unwrap_err().to_string();
        assert!(said.contains(&format!("{RECORD} is committed and now differs")), "{said}");
        commit(&root, "better figures");
        let said = check(&root).unwrap_err().to_string();
        assert!(said.contains("better figures\" changed or removed benches/record/cpu/2026-01-01.csv"), "{said}");
    }

    #[test]
    fn a_removed_or_renamed_record_is_found() {
        let root = repository("history_removed");
        fs::rename(root.join(RECORD), root.join("benches/record/cpu/2026-01-03.csv")).unwrap();
        assert!(check(&root).is_err());
        commit(&root, "other name");
        assert!(check(&root).unwrap_err().to_string().contains(RECORD));
    }

    #[test]
    fn outside_of_git_and_without_history_there_is_nothing_to_see() {
        // Inside of this repository's folder, but not of its tree.
        let root = folder("history_none");
        write(&root, RECORD, "a\n1\n");
        check(&root).unwrap();

        let whole = repository("history_whole");
        write(&whole, RECORD, "a\n4\n");
        commit(&whole, "better figures");
        let shallow = folder("history_shallow");
        let from = format!("file://{}", whole.display());
        git(&shallow, &["clone", "-q", "--depth", "1", &from, "."]).unwrap();
        check(&shallow).unwrap();
        // What is not committed is seen there too.
        write(&shallow, RECORD, "a\n5\n");
        assert!(check(&shallow).is_err());
    }
}
