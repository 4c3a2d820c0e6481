//! The flasher as a program, against a feed on this machine.

#![allow(clippy::unwrap_used, reason = "a test may panic in its helper functions too")]

mod local_feed;

use std::{
    fs,
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Output,
    sync::LazyLock,
};

use local_feed::{LocalFeed, SEED_OFFSET, SEED_SIZE, TestImage, VERSION, pack, process, server::Server};
use media::{SMALLEST_DRIVE, Table};
use serde_json::json;
use tempfile::TempDir;

static RAW: LazyLock<TestImage> = LazyLock::new(|| TestImage::new("x86_64", 512));
static PACKED: LazyLock<Vec<u8>> = LazyLock::new(|| RAW.packed());

/// A feed with one image, its server, and a folder to work in.
struct World {
    feed: LocalFeed,
    server: Server,
    work: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|feed| feed.add("x86_64", "os", "image-raw", &format!("IncusOS_{VERSION}.img.gz"), &PACKED))
    }

    fn with(fill: impl FnOnce(&mut LocalFeed)) -> Self {
        let mut feed = LocalFeed::new();
        fill(&mut feed);
        feed.publish(&feed.update);
        let server = Server::start(&feed.path(""));
        Self { feed, server, work: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// The name of the downloaded image.
    fn image(&self) -> PathBuf {
        self.path(&format!("IncusOS_{VERSION}.img"))
    }

    /// Downloads with a good seed and these arguments besides.
    fn download(&self, more: &[&str]) -> Output {
        self.seed(&install_seed());
        let (root, update) = (self.feed.path("root.crt"), self.feed.path("update.crt"));
        let mut arguments = vec!["--seed", "seed.tar", "--format", "img", "--arch", "x86_64", "--cache", "cache"];
        arguments.extend(["--server", &self.server.address]);
        arguments.extend(["--root-ca", root.to_str().unwrap(), "--update-ca", update.to_str().unwrap()]);
        arguments.extend(more);
        self.run(&arguments)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        process::run(env!("CARGO_BIN_EXE_flasher-tool"), arguments, self.work.path())
    }

    fn seed(&self, archive: &[u8]) {
        fs::write(self.path("seed.tar"), archive).unwrap();
    }

    /// Downloads, expects a refusal that says this, and no image.
    fn refused(&self, more: &[&str], reason: &str) {
        let output = self.download(more);
        assert_refused(&output, reason);
        let left = fs::read_dir(self.work.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.iter().all(|name| !name.contains("img")), "{left:?}");
    }
}

fn assert_refused(output: &Output, reason: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(reason), "`{reason}` is not in: {text}");
}

fn assert_done(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let file = |(name, content): &(&str, &str)| seed::File { name: (*name).into(), content: content.as_bytes().into() };
    seed::write(&files.iter().map(file).collect::<Vec<_>>())
}

fn install_seed() -> Vec<u8> {
    archive(&[
        ("install.yaml", "version: ''\ntarget:\n  id: nvme\n"),
        ("applications.yaml", "applications:\n- name: incus\n"),
    ])
}

fn saved(image: &TestImage, path: &Path) {
    image.save(path);
}

#[test]
fn image_is_downloaded_verified_and_given_its_seed() {
    let world = World::new();
    let text = assert_done(&world.download(&[]));
    let line = text.lines().find(|line| line.contains(&format!("IncusOS_{VERSION}.img")) && line.contains("(img)"));
    assert!(line.is_some_and(|line| line.contains(VERSION)), "{text}");
    RAW.assert_equal_outside_of(&install_seed(), fs::File::open(world.image()).unwrap());

    // Once more: nothing is downloaded again, and the image is replaced.
    fs::write(world.image(), "x").unwrap();
    assert!(assert_done(&world.download(&[])).contains("was downloaded before"));
    let fetched = world.server.requests().into_iter().filter(|(path, _)| path.ends_with(".gz")).count();
    assert_eq!(fetched, 1);
    RAW.assert_equal_outside_of(&install_seed(), fs::File::open(world.image()).unwrap());
}

#[test]
fn download_goes_on_where_it_broke_off() {
    let world = World::new();
    let half = PACKED.len() as u64 / 2;
    world.server.cut_after(half);
    world.refused(&[], "broke off; run the same command again");
    assert_done(&world.download(&[]));
    let starts: Vec<_> =
        world.server.requests().into_iter().filter(|(path, _)| path.ends_with(".gz")).map(|(_, start)| start).collect();
    assert_eq!(starts, [0, half]);
    RAW.assert_equal_outside_of(&install_seed(), fs::File::open(world.image()).unwrap());
}

#[test]
fn index_that_is_not_signed_by_the_right_authority_is_refused() {
    let world = World::new();
    world.feed.publish(&world.feed.support);
    world.refused(&[], "only signers issued by 'CN=Update E1' are accepted");

    world.feed.publish(&world.feed.update);
    let path = world.feed.path("index.sjson");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("stable", "stabel")).unwrap();
    world.refused(&[], "the content is not the one that was signed");
    fs::write(&path, fs::read(world.feed.path("index.json")).unwrap()).unwrap();
    world.refused(&[], "cannot trust the index");
    fs::remove_file(&path).unwrap();
    world.refused(&[], "the server answered 404");
}

#[test]
fn files_that_are_not_the_published_ones_are_refused() {
    let name = format!("IncusOS_{VERSION}.img.gz");
    let add = |feed: &mut LocalFeed| feed.add("x86_64", "os", "image-raw", &name, &PACKED);
    let with_hash = World::with(|feed| {
        add(feed);
        feed.amend("sha256", json!("0".repeat(64)));
    });
    with_hash.refused(&[], "its hash is another");
    let too_long = World::with(|feed| {
        add(feed);
        feed.amend("size", json!(PACKED.len() - 1));
    });
    too_long.refused(&[], "is not the file that was published");
    let unhashed = World::with(|feed| {
        add(feed);
        feed.amend("sha256", json!(""));
    });
    unhashed.refused(&[], "without a SHA-256");
    let elsewhere = World::with(|feed| {
        add(feed);
        feed.amend("filename", json!("../../etc/passwd"));
    });
    elsewhere.refused(&[], "no plain path");
}

#[test]
fn download_that_is_no_image_of_ours_is_refused() {
    let name = format!("IncusOS_{VERSION}.img.gz");
    for (packed, reason) in [
        (pack(b"not an image at all"), "is not an image of this system: there is no partition table"),
        (b"not even compressed".to_vec(), "can be unpacked"),
        (TestImage::stranger().packed(), "is not an image of this system"),
        (TestImage::new("aarch64", 512).packed(), "is an image for aarch64, not for x86_64"),
    ] {
        World::with(|feed| feed.add("x86_64", "os", "image-raw", &name, &packed)).refused(&[], reason);
    }
}

#[test]
fn what_the_feed_does_not_have_is_named() {
    let world = World::new();
    world.refused(&["--channel", "nightly"], "no release for x86_64 is in channel 'nightly'; there is no such channel");
    // The last of two equal options counts.
    let output = world.run(&["--seed", "seed.tar", "--format", "qcow2", "--root-ca", "x", "--update-ca", "x"]);
    assert_refused(&output, "unknown image format 'qcow2'");
    let output = world.run(&["--seed", "seed.tar", "--format", "img", "--arch", "x86_64", "--cache", "c"]);
    assert_refused(&output, "--root-ca");
}

#[test]
fn bad_seeds_are_refused_before_anything_is_touched() {
    let world = World::new();
    let path = world.path("x.img");
    saved(&RAW, &path);
    for (archive, reason) in [
        (archive(&[("install.yaml", "target: {min_size: 5x}\n")]), "install.yaml: target.min_size"),
        (archive(&[("install.yaml", "targt: {}\n")]), "would pass over parts of the seed"),
        (archive(&[("instal.yaml", "{}\n")]), "instal.yaml: is not read"),
        (archive(&[("security.yaml", "encryption_recovery_keys: [x]\n")]), "recovery keys cannot be set by seed"),
        (b"no archive".to_vec(), "is no tar archive"),
        ([b'x'; 4096].to_vec(), "is no tar archive"),
    ] {
        world.seed(&archive);
        assert_refused(&world.run(&["--seed", "seed.tar", "--image", "x.img"]), reason);
    }
    let large = fs::File::create(world.path("seed.tar")).unwrap();
    large.set_len(SEED_SIZE + 1).unwrap();
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "x.img"]), "more than the");
    RAW.assert_equal_outside_of(&[], fs::File::open(&path).unwrap());
    world.seed(&archive(&[("install.yaml", "targt: {}\n")]));
    assert_done(&world.run(&["--seed", "seed.tar", "--image", "x.img", "--accept-warnings"]));
}

#[test]
fn seed_is_replaced_without_a_trace_of_the_old_one() {
    let world = World::new();
    saved(&RAW, &world.path("x.img"));
    let long =
        archive(&[("install.yaml", "{}\n"), ("network.json", &format!("{{\"version\":\"{}\"}}", "s".repeat(9000)))]);
    for seed in [long, install_seed()] {
        world.seed(&seed);
        assert_done(&world.run(&["--seed", "seed.tar", "--image", "x.img"]));
        RAW.assert_equal_outside_of(&seed, fs::File::open(world.path("x.img")).unwrap());
    }
}

#[test]
fn image_that_runs_by_itself_gets_room_and_its_source_stays_as_it_was() {
    let world = World::new();
    saved(&RAW, &world.path("x.img"));
    let seed = archive(&[("applications.yaml", "applications:\n- name: incus\n")]);
    world.seed(&seed);
    assert_done(&world.run(&["--seed", "seed.tar", "--image", "x.img", "--output", "y.img"]));
    RAW.assert_equal_outside_of(&[], fs::File::open(world.path("x.img")).unwrap());
    let copy = fs::File::open(world.path("y.img")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), SMALLEST_DRIVE);
    RAW.assert_equal_outside_of(&seed, copy.take(RAW.size()));
}

#[test]
fn files_that_are_no_images_are_not_written_to() {
    let world = World::new();
    world.seed(&install_seed());
    let path = world.path("letter.txt");
    let letter = vec![b'a'; 3 << 20];
    fs::write(&path, &letter).unwrap();
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "letter.txt"]), "is not an image of this system");
    assert_eq!(fs::read(&path).unwrap(), letter);
    saved(&TestImage::stranger(), &world.path("x.img"));
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "x.img"]), "is not an image of this system");
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "nothing.img"]), "cannot open `nothing.img`");
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "."]), "");
}

#[test]
fn iso_needs_an_installation() {
    let world = World::new();
    let iso = TestImage::new("x86_64", 2048);
    saved(&iso, &world.path("x.iso"));
    world.seed(&archive(&[("applications.yaml", "applications:\n- name: incus\n")]));
    assert_refused(&world.run(&["--seed", "seed.tar", "--image", "x.iso"]), "nothing can run from an ISO");
    world.seed(&install_seed());
    assert_done(&world.run(&["--seed", "seed.tar", "--image", "x.iso"]));
    let mut start = [0; 4];
    fs::File::open(world.path("x.iso")).unwrap().read_exact_at(&mut start, SEED_OFFSET).unwrap();
    assert_eq!(&start, b"inst");
    iso.assert_equal_outside_of(&install_seed(), fs::File::open(world.path("x.iso")).unwrap());
}

#[test]
fn disk_in_use_is_refused() {
    let world = World::new();
    saved(&RAW, &world.path("x.img"));
    world.seed(&install_seed());
    let disk = LoopDevice::attach(&world.path("x.img"));
    // A second owner, as a mounted file system is one.
    let owner = fs::OpenOptions::new().read(true).custom_flags_exclusive().open(&disk.path).unwrap();
    assert_refused(
        &world.run(&["--seed", "seed.tar", "--image", &disk.path]),
        "is in use: unmount what is on it first",
    );
    assert_refused(
        &world.run(&["--seed", "seed.tar", "--image", "x.img", "--output", &disk.path]),
        "is in use: unmount what is on it first",
    );
    drop(owner);
    assert_done(&world.run(&["--seed", "seed.tar", "--image", &disk.path]));
    drop(disk);
    RAW.assert_equal_outside_of(&install_seed(), fs::File::open(world.path("x.img")).unwrap());
}

#[test]
fn image_is_written_to_a_whole_disk() {
    let world = World::new();
    saved(&RAW, &world.path("x.img"));
    let system = LoopDevice::attach_part(&world.path("x.img"), "1048576", "2147483648");
    let output = process::run("mkfs.vfat", &["-F", "32", &system.path], world.work.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(system);
    world.seed(&install_seed());
    let file = fs::File::create(world.path("disk")).unwrap();
    file.set_len(4 << 30).unwrap();
    let disk = LoopDevice::attach(&world.path("disk"));
    assert_done(&world.run(&["--seed", "seed.tar", "--image", "x.img", "--output", &disk.path]));
    // What is on the disk now is an image like any other.
    assert_done(&world.run(&["--seed", "seed.tar", "--image", &disk.path]));
    drop(disk);
    let (image, disk) = (fs::File::open(world.path("x.img")).unwrap(), fs::File::open(world.path("disk")).unwrap());
    let (from, to) = (Table::read(&image).unwrap(), Table::read(&disk).unwrap());
    let content = |file: &fs::File, table: &Table, number: u32| {
        let partition = table.partition(number).unwrap();
        let mut bytes = vec![0; usize::try_from(partition.size).unwrap()];
        file.read_exact_at(&mut bytes, partition.start).unwrap();
        bytes
    };
    assert!(content(&image, &from, 5) == content(&disk, &to, 5));
    assert!(content(&disk, &to, 2).starts_with(&install_seed()));
    let labels = |table: &Table| table.partitions.iter().map(|partition| partition.label.clone()).collect::<Vec<_>>();
    assert_eq!(labels(&from), labels(&to));
}

/// What opening a disk for oneself is in words.
trait Exclusive {
    fn custom_flags_exclusive(&mut self) -> &mut Self;
}

impl Exclusive for fs::OpenOptions {
    fn custom_flags_exclusive(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt as _;
        self.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
    }
}

/// A file as a disk.
struct LoopDevice {
    path: String,
}

impl LoopDevice {
    fn attach(file: &Path) -> Self {
        Self::attach_part(file, "0", "0")
    }

    /// Only this many bytes from there on; zero is all.
    fn attach_part(file: &Path, start: &str, size: &str) -> Self {
        let place = ["--offset", start, "--sizelimit", size, file.to_str().unwrap()];
        let output = process::run("losetup", &[["--find", "--show"].as_slice(), &place].concat(), Path::new("/"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { path: String::from_utf8(output.stdout).unwrap().trim().to_owned() }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        process::run("losetup", &["--detach", &self.path], Path::new("/"));
    }
}

#[test]
fn version_is_printed() {
    let output = World::with(|_| ()).run(&["-v"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "flasher-tool version dev\n");
    assert!(output.status.success());
}

#[test]
fn without_a_seed_and_a_terminal_the_way_out_is_named() {
    let world = World::with(|_| ());
    saved(&RAW, &world.path("x.img"));
    assert_refused(&world.run(&["--image", "x.img"]), "give --seed");
}
