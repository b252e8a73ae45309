//! Kernels out of Debian's archive, unpacked into the user's cache. Whose mirror that is says the host's own apt
//! configuration; the host's package lists and packages are not touched, and no root is needed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::catalogue::Wanted;
use crate::{run, ui, workspace};

/// How long one of apt's commands may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) wanted: Wanted,
    /// As `uname -r` will say.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// The directory of its modules, with what depmod made.
    pub(crate) modules: PathBuf,
}

/// Where kernels are kept: they are the same for every working copy.
pub(crate) fn cache() -> PathBuf {
    let own = env::var_os("LB_KERNEL_CACHE").map(PathBuf::from);
    let user = || env::var_os("XDG_CACHE_HOME").map(|cache| PathBuf::from(cache).join("lb/kernels"));
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/lb/kernels"));
    own.or_else(user).or_else(home).unwrap_or_else(|| workspace::target().join("kernels/cache"))
}

/// Those of `wanted` that are in the cache; what is not, or all if `update`, is fetched first. One that is neither there
/// nor to be had comes back with the reason.
pub(crate) fn kernels(
    wanted: &[Wanted],
    update: bool,
    say: &dyn Fn(&str),
) -> Result<Vec<(Wanted, Result<Kernel>)>> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // Two runs at a time would fetch into the same place.
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("cannot lock the cache of kernels")?;
    let missing: Vec<Wanted> =
        wanted.iter().filter(|kernel| update || cached(&cache, kernel).is_none()).copied().collect();
    let archive = if missing.is_empty() { None } else { Some(Archive::open(&cache, &missing, say)) };
    let mut kernels = Vec::new();
    for kernel in wanted {
        let fetched = match &archive {
            Some(Ok(archive)) if missing.contains(kernel) => archive.fetch(&cache, kernel, say),
            Some(Err(why)) if missing.contains(kernel) => Err(anyhow::anyhow!("{why:#}")),
            _ => Ok(()),
        };
        let found = match (cached(&cache, kernel), fetched) {
            (Some(found), Ok(())) => Ok(found),
            (Some(found), Err(why)) => {
                eprintln!(
                    "{} kernel {}: going on with {}: {why:#}",
                    ui::yellow("note:"),
                    kernel.name,
                    found.release
                );
                Ok(found)
            }
            (None, Err(why)) => Err(why),
            (None, Ok(())) => Err(anyhow::anyhow!("it was fetched and is not there")),
        };
        kernels.push((*kernel, found));
    }
    Ok(kernels)
}

/// What was unpacked before. The release is written last, so what is incomplete is not found.
fn cached(cache: &Path, wanted: &Wanted) -> Option<Kernel> {
    let directory = cache.join(wanted.name);
    let release = fs::read_to_string(directory.join("release")).ok()?.trim().to_owned();
    let modules = directory.join("lib/modules").join(&release);
    Some(Kernel { wanted: *wanted, release, image: directory.join("vmlinuz"), modules })
}

/// apt with directories of its own.
struct Archive {
    options: Vec<String>,
    packages: Vec<String>,
}

impl Archive {
    /// Fetches the package lists of the suites that have these kernels.
    fn open(cache: &Path, wanted: &[Wanted], say: &dyn Fn(&str)) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb", "depmod"] {
            if run::find(program).is_none() {
                bail!(
                    "`{program}` is needed to fetch a Debian kernel; `cargo xtask setup` installs what it can"
                );
            }
        }
        let mirror = mirror()?;
        let apt = cache.join("apt");
        for directory in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(directory))?;
        }
        let mut suites: Vec<&str> = wanted.iter().flat_map(|kernel| kernel.suites).copied().collect();
        suites.sort_unstable();
        suites.dedup();
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let signed =
            if Path::new(keyring).exists() { format!("[signed-by={keyring}] ") } else { String::new() };
        let list: String =
            suites.iter().map(|suite| format!("deb {signed}{mirror} {suite} main\n")).collect();
        fs::write(apt.join("sources.list"), list)?;
        let place = |option: &str, path: &str| format!("Dir::{option}={}", apt.join(path).display());
        let options = vec![
            place("State", "state"),
            place("State::lists", "state/lists"),
            place("Cache", "cache"),
            place("Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures=amd64".to_owned(),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let mut archive = Self { options, packages: Vec::new() };
        say(&format!("fetching the package lists of {} from {mirror}", suites.join(", ")));
        let mut update = archive.apt("apt-get");
        run::run_within(PATIENCE, update.args(["-qq", "update", "--error-on=any"])).with_context(|| {
            format!(
                "the archive {mirror} cannot be read; kernels that are in {} can be run without",
                cache.display()
            )
        })?;
        let names = run::capture(archive.apt("apt-cache").args(["pkgnames", "linux-image-"]))?;
        archive.packages = names.lines().map(str::to_owned).collect();
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The newest kernel of a line into the cache, unless it is there already.
    fn fetch(&self, cache: &Path, wanted: &Wanted, say: &dyn Fn(&str)) -> Result<()> {
        let package = wanted.newest(self.packages.iter().map(String::as_str)).with_context(|| {
            format!("the archive has no kernel {} in {}", wanted.name, wanted.suites.join(", "))
        })?;
        let release = package.trim_start_matches("linux-image-");
        if cached(cache, wanted).is_some_and(|kernel| kernel.release == release) {
            return Ok(());
        }
        // Newer packages keep image and modules apart from the package that has the name.
        let depends = run::capture(self.apt("apt-cache").args(["depends", package]))?;
        let parts = ["linux-binary-", "linux-modules-"].map(|part| format!("{part}{release}"));
        let parts = parts.iter().filter(|part| depends.contains(part.as_str())).map(String::as_str);
        let packages: Vec<&str> = [package].into_iter().chain(parts).collect();

        let directory = cache.join(wanted.name);
        fs::remove_dir_all(&directory).ok();
        let unpacked = directory.join("unpacked");
        fs::create_dir_all(&unpacked)?;
        say(&format!("fetching {}", packages.join(", ")));
        let mut download = self.apt("apt-get");
        download.args(["-qq", "download"]).args(&packages).current_dir(&directory);
        run::run_within(PATIENCE, &mut download).with_context(|| format!("kernel {}", wanted.name))?;
        for entry in fs::read_dir(&directory)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                run::capture(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked))?;
                fs::remove_file(&file)?;
            }
        }
        settle(&directory, &unpacked, release).with_context(|| format!("package {package}"))
    }
}

/// From the package's layout, of which there are two, to ours.
fn settle(directory: &Path, unpacked: &Path, release: &str) -> Result<()> {
    let first = |places: [PathBuf; 2]| places.into_iter().find(|place| place.exists());
    let image = first([
        unpacked.join(format!("boot/vmlinuz-{release}")),
        unpacked.join(format!("usr/lib/modules/{release}/vmlinuz")),
    ]);
    fs::rename(image.context("there is no image in it")?, directory.join("vmlinuz"))?;
    let modules = first(["lib", "usr/lib"].map(|lib| unpacked.join(lib).join("modules").join(release)));
    fs::create_dir_all(directory.join("lib/modules"))?;
    fs::rename(modules.context("there are no modules in it")?, directory.join("lib/modules").join(release))?;
    let depmod = run::find("depmod").context("no depmod")?;
    run::capture(Command::new(depmod).arg("-b").arg(directory).arg(release))?;
    fs::remove_dir_all(unpacked)?;
    Ok(fs::write(directory.join("release"), release)?)
}

/// The mirror that this host takes Debian from.
fn mirror() -> Result<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI) $(LABEL)", "Identifier: Packages"]);
    let targets = run::capture(&mut command)?;
    debian(&targets).map(str::to_owned).context(
        "this host's apt configuration names no Debian archive, and the kernels to be tried are Debian's; \
         add one, or put kernels into the cache on another host",
    )
}

fn debian(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| line.strip_suffix(" Debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_own_archive_not_that_of_security_or_of_others() {
        let targets = "http://a.example/tools Tools\nhttp://b.example/security Debian-Security\n\
                       http://c.example/debian/ Debian\n";
        assert_eq!(debian(targets), Some("http://c.example/debian/"));
        assert_eq!(debian("http://a.example/ubuntu Ubuntu"), None);
    }
}
