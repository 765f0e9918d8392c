//! The Python package: its wheel, its tests, and the environments that these run in.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::pip::python_with_pip;
use crate::progress;
use crate::workspace::{capture, root, run, shown, target, typed};

/// What builds the wheel.
const MATURIN: &str = "maturin==1.16.0";

/// What the tests need beside the package and NumPy.
const FOR_TESTS: [&str; 2] = ["pytest>=8", "jax>=0.6"];

/// What is installed where no Python has it.
const PYTORCH: [&str; 2] = ["torch==2.15.0", "numpy"];

/// What the wheel may hold.
const WHEEL_BYTES_MAX: u64 = 15_000_000;

/// `cargo xtask wheel`: builds the one wheel in `target/wheels`.
pub fn wheel() -> Result<PathBuf> {
    crate::toolkit()?;
    let folder = target().join("wheels");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", shown(&folder)))?;
    }
    let tools = environment("build", &[OsStr::new(MATURIN)])?;
    let mut maturin = Command::new(tools.with_file_name("maturin"));
    maturin.current_dir(root().join("python")).args(["build", "--release", "--quiet", "--out"]).arg(&folder);
    println!("$ {}", typed(&maturin));
    run(&mut maturin)?;
    let wheels: Vec<PathBuf> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    let [wheel] = wheels.as_slice() else { bail!("maturin left {} files in {}", wheels.len(), shown(&folder)) };
    let size_bytes = fs::metadata(wheel)?.len();
    println!("{}: {:.1} MB", shown(wheel), size_bytes as f64 / 1e6);
    if size_bytes >= WHEEL_BYTES_MAX {
        bail!("the wheel has {size_bytes} bytes; fewer than {WHEEL_BYTES_MAX} are allowed");
    }
    Ok(wheel.clone())
}

/// The tests that need NumPy only, in a fresh environment that has the wheel and what it asks for; and the lines of the
/// READMEs in one that has nothing else.
pub fn test_with_numpy() -> Result<()> {
    let wheel = wheel()?;
    let python = environment("fresh", &[wheel.as_os_str()])?;
    let [with_numpy, _] = readme_lines()?;
    println!("The lines of the READMEs, with the wheel and NumPy alone:");
    run(Command::new(&python).current_dir(target()).args(["-W", "error", "-c", &with_numpy]))?;

    let further: Vec<&OsStr> = [wheel.as_os_str()].into_iter().chain(FOR_TESTS.iter().map(OsStr::new)).collect();
    let python = environment("tests", &further)?;
    run(pytest(&python).arg("--ignore=test_torch.py"))
}

/// The tests against PyTorch, if some Python has it; else says so.
pub fn test_with_pytorch() -> Result<()> {
    let Some(python) = python_that_has_pytorch()? else {
        println!("PyTorch is not importable, so that its tests do not run; cargo xtask pytorch installs it");
        return Ok(());
    };
    let site = site_for(&python, &FOR_TESTS[..1])?;
    let [_, with_pytorch] = readme_lines()?;
    println!("The lines of the READMEs with PyTorch:");
    run(Command::new(&python).env("PYTHONPATH", &site).current_dir(target()).args(["-c", &with_pytorch]))?;
    run(pytest(&python).env("PYTHONPATH", &site).arg("test_torch.py"))
}

/// A Python that has PyTorch, installed if there is none, and the folder for its `PYTHONPATH` that holds the package.
pub fn package_for_pytorch() -> Result<(PathBuf, PathBuf)> {
    let python = pytorch()?;
    wheel()?;
    let site = site_for(&python, &["matplotlib"])?;
    Ok((python, site))
}

/// `cargo xtask pytorch`: the Python that has PyTorch, installed now if there is none.
pub fn pytorch() -> Result<PathBuf> {
    if let Some(python) = python_that_has_pytorch()? {
        return Ok(python);
    }
    let python = own_pytorch()?;
    let folder = python.ancestors().nth(2).expect("it lies in bin").to_path_buf();
    let what = format!("Installing {} (5 GB on disk) into {}", PYTORCH[0], shown(&folder));
    progress::during(&what, |_| {
        make_environment(&folder)?;
        capture(pip(&python).args(PYTORCH)).context("pip could not install PyTorch; its own words tell why")
    })?;
    Ok(python)
}

/// The `python3` of the path if it has PyTorch, else the one that was installed for it.
fn python_that_has_pytorch() -> Result<Option<PathBuf>> {
    let candidates = [PathBuf::from("python3"), own_pytorch()?];
    let has_it = |python: &PathBuf| capture(Command::new(python).args(["-c", "import torch"])).is_ok();
    Ok(candidates.into_iter().find(has_it))
}

/// The Python of our own that PyTorch is installed for, in the user's cache: it outlives `target/`.
fn own_pytorch() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME says where to keep PyTorch")?;
    Ok(cache.join("warpfold/pytorch/bin/python3"))
}

/// The wheel and further packages in a folder of their own, so that an environment that others use too is left as it is.
fn site_for(python: &Path, further: &[&str]) -> Result<PathBuf> {
    let wheels = target().join("wheels");
    let wheel =
        fs::read_dir(&wheels).with_context(|| format!("there is no wheel in {}", shown(&wheels)))?.flatten().next();
    let wheel = wheel.with_context(|| format!("there is no wheel in {}", shown(&wheels)))?.path();
    let site = target().join("python/site");
    if site.exists() {
        fs::remove_dir_all(&site).with_context(|| format!("cannot replace {}", shown(&site)))?;
    }
    // NumPy is PyTorch's own.
    capture(pip(python).args(["--no-deps", "--target"]).arg(&site).arg(&wheel))?;
    if !further.is_empty() {
        capture(pip(python).arg("--target").arg(&site).args(further))?;
    }
    Ok(site)
}

/// The Python of a new virtual environment below `target/python` that has these packages.
fn environment(name: &str, packages: &[&OsStr]) -> Result<PathBuf> {
    let folder = target().join("python").join(name);
    let python = folder.join("bin/python3");
    let list: Vec<_> = packages.iter().map(|package| package.to_string_lossy()).collect();
    let what = format!(
        "Installing {} into {}",
        list.join(", ").replace(&format!("{}/", root().display()), ""),
        shown(&folder)
    );
    progress::during(&what, |_| {
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", shown(&folder)))?;
        }
        make_environment(&folder)?;
        capture(pip(&python).args(packages)).context("pip could not install the packages; its own words tell why")
    })?;
    Ok(python)
}

fn make_environment(folder: &Path) -> Result<()> {
    capture(Command::new(python_with_pip()?).args(["-m", "venv"]).arg(folder))
        .context("python3 cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)")?;
    Ok(())
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--root-user-action=ignore",
    ]);
    pip
}

fn pytest(python: &Path) -> Command {
    let mut pytest = Command::new(python);
    // From the folder of the tests: the package that they import is the installed one, not the sources in `python`.
    pytest.current_dir(root().join("python/tests")).args(["-m", "pytest", "--quiet", "--durations=5"]);
    pytest.args(["-p", "no:cacheprovider"]).env("PYTHONDONTWRITEBYTECODE", "1");
    pytest
}

/// The Python lines of the READMEs: those with NumPy, and those with PyTorch.
fn readme_lines() -> Result<[String; 2]> {
    let mut lines = [String::new(), String::new()];
    for path in ["README.md", "python/README.md"].map(|path| root().join(path)) {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", shown(&path)))?;
        for block in text.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            lines[usize::from(block.contains("import torch"))] += block;
        }
    }
    Ok(lines)
}
