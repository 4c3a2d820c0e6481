//! The questions, for who has no seed at hand.

use std::{
    env, fs,
    io::{self, BufRead, Read as _, Write},
    path::{Path, PathBuf},
    process::Command,
};

use seed::{File, Section};
use serde_json::{Value, json};

use super::seeds::{self, Prepared, SeedsError};

/// Editors to try when none is set, in this order.
const EDITORS: [&str; 4] = ["editor", "vi", "emacs", "nano"];

/// The questions could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum MenuError {
    #[error("nobody answers: without a terminal, give --seed, and --image or --format")]
    NoAnswer,
    #[error("cannot ask")]
    Terminal(#[from] io::Error),
    #[error("cannot run the editor `{editor}`; set EDITOR to another one")]
    Editor { editor: String, source: io::Error },
    #[error("cannot write the seed as YAML")]
    Yaml(#[from] serde_yaml::Error),
}

/// What was chosen.
pub(super) struct Chosen {
    pub(super) seed: Prepared,
    /// Where to write to.
    pub(super) output: PathBuf,
}

/// Answers so far.
#[derive(Debug, Default)]
struct Answers {
    install: Option<Install>,
    applications: Vec<&'static str>,
    /// Sections in YAML, as they were typed.
    typed: Vec<(Section, String)>,
}

#[derive(Debug, Default)]
struct Install {
    target: String,
    force_install: bool,
    force_reboot: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Mode,
    Applications,
    Edit(Section),
    Write,
}

/// Questions on a terminal, or on any pair of streams.
pub(super) struct Menu<R, W> {
    input: R,
    output: W,
}

impl<R: BufRead, W: Write> Menu<R, W> {
    pub(super) fn new(input: R, output: W) -> Self {
        Self { input, output }
    }

    /// Which form of image to download.
    pub(super) fn format(&mut self) -> Result<String, MenuError> {
        let answer = self.ask("Image format, `iso` or `img` [iso]: ")?;
        Ok(if answer.is_empty() { "iso".to_owned() } else { answer })
    }

    /// Asks until a seed can be written.
    pub(super) fn run(&mut self, is_iso: bool, default_output: &Path) -> Result<Chosen, MenuError> {
        let mut answers = Answers::default();
        if is_iso {
            answers.install = Some(self.install()?);
        } else {
            self.mode(&mut answers)?;
        }
        loop {
            let items = answers.items(is_iso);
            writeln!(self.output, "\nWhat next?")?;
            for (number, item) in (1..).zip(&items) {
                writeln!(self.output, "  {number}) {}", answers.describe(*item))?;
            }
            let answer = self.ask(&format!("Choose [{}]: ", items.len()))?;
            let number = if answer.is_empty() { Some(items.len()) } else { answer.parse().ok() };
            let item = number.and_then(|number: usize| items.get(number.checked_sub(1)?));
            match item {
                None => writeln!(self.output, "There is no '{answer}'.")?,
                Some(Item::Mode) => self.mode(&mut answers)?,
                Some(Item::Applications) => self.applications(&mut answers)?,
                Some(Item::Edit(section)) => self.edit(*section, &mut answers)?,
                Some(Item::Write) => match seeds::prepare(&answers.files()?) {
                    Ok(seed) => {
                        let shown = default_output.display();
                        let name = self.ask(&format!("Write to [{shown}]: "))?;
                        let output = if name.is_empty() { default_output.to_owned() } else { name.into() };
                        return Ok(Chosen { seed, output });
                    }
                    Err(error) => self.say(&error)?,
                },
            }
        }
    }

    fn mode(&mut self, answers: &mut Answers) -> Result<(), MenuError> {
        answers.install =
            if self.confirm("Install to a disk by default?", true)? { Some(self.install()?) } else { None };
        if answers.install.is_none() {
            writeln!(self.output, "The system will run from the medium itself, which needs 50 GiB.")?;
        }
        Ok(())
    }

    fn install(&mut self) -> Result<Install, MenuError> {
        Ok(Install {
            target: self.ask("ID of the target disk, if there are several (part of its name in /dev/disk/by-id): ")?,
            force_install: self.confirm("Erase the target even if it holds data?", false)?,
            force_reboot: self.confirm("Reboot right after the installation?", false)?,
        })
    }

    fn applications(&mut self, answers: &mut Answers) -> Result<(), MenuError> {
        const PRIMARY: [(&str, Option<&str>); 5] = [
            ("Incus", Some("incus")),
            ("Incus LTS 7.0", Some("incus-lts-7.0")),
            ("Migration Manager", Some("migration-manager")),
            ("Operations Center", Some("operations-center")),
            ("None", None),
        ];
        for (number, (title, _)) in (1..).zip(PRIMARY) {
            writeln!(self.output, "  {number}) {title}")?;
        }
        let answer = self.ask("Application [5]: ")?;
        let number = if answer.is_empty() { Some(PRIMARY.len()) } else { answer.parse::<usize>().ok() };
        let Some((_, name)) = number.and_then(|number| PRIMARY.get(number.checked_sub(1)?)) else {
            writeln!(self.output, "There is no '{answer}'.")?;
            return Ok(());
        };
        answers.applications = name.iter().copied().collect();
        if name.is_some_and(|name| name.starts_with("incus")) {
            for (question, addition) in [("Add Ceph?", "incus-ceph"), ("Add Linstor?", "incus-linstor")] {
                if self.confirm(question, false)? {
                    answers.applications.push(addition);
                }
            }
        }
        Ok(())
    }

    /// Lets the section be typed in an editor. What is wrong is told, and the old text kept.
    fn edit(&mut self, section: Section, answers: &mut Answers) -> Result<(), MenuError> {
        let old = answers.text(section).unwrap_or_default().to_owned();
        let text = edited(&old)?;
        if text.trim().is_empty() {
            answers.typed.retain(|(other, _)| *other != section);
            return Ok(());
        }
        if let Err(error) = check(section, &text) {
            self.say(&error)?;
            return Ok(());
        }
        answers.typed.retain(|(other, _)| *other != section);
        answers.typed.push((section, text));
        Ok(())
    }

    fn say(&mut self, error: &SeedsError) -> Result<(), MenuError> {
        Ok(writeln!(self.output, "{error}")?)
    }

    fn confirm(&mut self, question: &str, default: bool) -> Result<bool, MenuError> {
        loop {
            let answer = self.ask(&format!("{question} [{}]: ", if default { "Y/n" } else { "y/N" }))?;
            match answer.to_ascii_lowercase().as_str() {
                "" => return Ok(default),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => writeln!(self.output, "Answer y or n.")?,
            }
        }
    }

    fn ask(&mut self, question: &str) -> Result<String, MenuError> {
        write!(self.output, "{question}")?;
        self.output.flush()?;
        let mut line = String::new();
        // An answer is a few words.
        if self.input.by_ref().take(4096).read_line(&mut line)? == 0 {
            return Err(MenuError::NoAnswer);
        }
        Ok(line.trim().to_owned())
    }
}

impl Answers {
    fn items(&self, is_iso: bool) -> Vec<Item> {
        let has = |name: &str| self.applications.contains(&name);
        let mut items = Vec::new();
        if !is_iso {
            items.push(Item::Mode);
        }
        items.extend([Item::Applications, Item::Edit(Section::Network)]);
        if has("incus") || has("incus-lts-7.0") {
            items.push(Item::Edit(Section::Incus));
        }
        for (name, section) in
            [("migration-manager", Section::MigrationManager), ("operations-center", Section::OperationsCenter)]
        {
            if has(name) {
                items.push(Item::Edit(section));
            }
        }
        items.push(Item::Write);
        items
    }

    fn describe(&self, item: Item) -> String {
        match item {
            Item::Mode if self.install.is_some() => "Boot mode: install to a disk (change)".into(),
            Item::Mode => "Boot mode: run from the medium (change)".into(),
            Item::Applications if self.applications.is_empty() => "Choose applications (none yet)".into(),
            Item::Applications => format!("Choose applications ({})", self.applications.join(", ")),
            Item::Edit(section) => {
                let state = if self.text(section).is_some() { "set" } else { "not set" };
                format!("Edit the {} seed ({state})", section.name())
            }
            Item::Write => "Write the image and exit".into(),
        }
    }

    fn text(&self, section: Section) -> Option<&str> {
        self.typed.iter().find(|(other, _)| *other == section).map(|(_, text)| text.as_str())
    }

    /// The files, in the order in which others write them. What was typed for an application that
    /// is no longer chosen is left out.
    fn files(&self) -> Result<Vec<File>, MenuError> {
        let mut files = Vec::new();
        let mut add = |section: Section, content: String| {
            files.push(File { name: format!("{}.yaml", section.name()), content: content.into_bytes() });
        };
        if !self.applications.is_empty() {
            let names: Vec<Value> = self.applications.iter().map(|name| json!({ "name": name })).collect();
            add(Section::Applications, serde_yaml::to_string(&json!({ "version": "1", "applications": names }))?);
        }
        let offered = self.items(false);
        for section in [Section::Incus, Section::MigrationManager, Section::OperationsCenter] {
            if let Some(text) = self.text(section).filter(|_| offered.contains(&Item::Edit(section))) {
                add(section, text.to_owned());
            }
        }
        if let Some(install) = &self.install {
            let mut seed = json!({
                "version": "1",
                "force_install": install.force_install,
                "force_reboot": install.force_reboot,
            });
            if !install.target.is_empty() {
                seed["target"] = json!({ "id": install.target });
            }
            add(Section::Install, serde_yaml::to_string(&seed)?);
        }
        if let Some(text) = self.text(Section::Network) {
            add(Section::Network, text.to_owned());
        }
        Ok(files)
    }
}

fn check(section: Section, text: &str) -> Result<(), SeedsError> {
    seeds::check_one(section, text)?;
    let names_a_link = |value: &Value| {
        ["interfaces", "bonds", "vlans"]
            .iter()
            .any(|key| value.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty()))
    };
    if section == Section::Network && !serde_yaml::from_str(text).is_ok_and(|value| names_a_link(&value)) {
        return Err(SeedsError::Mistakes("\n  network.yaml: it names no interface, bond or VLAN".into()));
    }
    Ok(())
}

/// Opens an editor on the text, in a file that nobody else can read.
fn edited(text: &str) -> Result<String, MenuError> {
    let mut file = tempfile::Builder::new().prefix("seed-").suffix(".yaml").tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    let editor = editor();
    #[expect(clippy::disallowed_methods, reason = "the operator's own editor, on the operator's own machine")]
    let outcome = Command::new(&editor).arg(file.path()).status();
    let failed = |source| MenuError::Editor { editor: editor.clone(), source };
    let status = outcome.map_err(failed)?;
    if !status.success() {
        return Err(failed(io::Error::other(status.to_string())));
    }
    // Some editors replace the file.
    Ok(fs::read_to_string(file.path())?)
}

fn editor() -> String {
    let set = |variable| env::var(variable).ok().filter(|editor| !editor.is_empty());
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let is_there = |name: &&&str| folders.iter().any(|folder| folder.join(name).is_file());
    let found = EDITORS.iter().find(is_there).unwrap_or(&EDITORS[0]);
    set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| (*found).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(is_iso: bool, answers: &str) -> (Result<Chosen, MenuError>, String) {
        let mut output = Vec::new();
        let outcome = Menu::new(answers.as_bytes(), &mut output).run(is_iso, Path::new("x.img"));
        (outcome, String::from_utf8(output).unwrap())
    }

    fn files(seed: &Prepared) -> Vec<(String, String)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&seed.archive).unwrap();
        let files = seed::read(&file).unwrap().unwrap_or_default();
        files.into_iter().map(|file| (file.name, String::from_utf8(file.content).unwrap())).collect()
    }

    #[test]
    fn answers_become_a_seed() {
        // Install, to a disk, no force, reboot; applications: Incus with Ceph; write, elsewhere.
        let (chosen, _) = chosen(false, "\nnvme-X\nn\ny\n2\n1\ny\nn\n\nother.img\n");
        let chosen = chosen.unwrap();
        assert_eq!(chosen.output, Path::new("other.img"));
        let files = files(&chosen.seed);
        assert_eq!(files[0].0, "applications.yaml");
        assert!(files[0].1.contains("- name: incus\n- name: incus-ceph\n"), "{}", files[0].1);
        assert_eq!(files[1].0, "install.yaml");
        assert!(files[1].1.contains("force_reboot: true\ntarget:\n  id: nvme-X\n"), "{}", files[1].1);
    }

    #[test]
    fn medium_runs_by_itself_when_it_shall_not_install() {
        let (chosen, output) = chosen(false, "n\n\n\n");
        let chosen = chosen.unwrap();
        assert!(!chosen.seed.installs);
        assert_eq!(chosen.output, Path::new("x.img"));
        assert!(output.contains("50 GiB"), "{output}");
    }

    #[test]
    fn iso_always_installs() {
        let (chosen, output) = chosen(true, "\n\n\n9\n0\nx\n\n\n");
        assert!(chosen.unwrap().seed.installs);
        assert!(!output.contains("Boot mode"), "{output}");
        assert!(output.contains("There is no '9'.") && output.contains("There is no '0'."), "{output}");
    }

    #[test]
    fn silence_is_an_error_that_names_the_way_out() {
        let error = chosen(false, "\n").0.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("--seed"), "{error}");
    }

    #[test]
    fn network_needs_a_link() {
        assert!(check(Section::Network, "version: '1'\n").is_err());
        assert!(check(Section::Network, "interfacs: []\n").is_err());
    }
}
