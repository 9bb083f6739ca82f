//! How many threads a box's libraries have.

use super::job::Job;

const NAMES: &str = "['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS', \
    'NUMEXPR_NUM_THREADS', 'NUMEXPR_MAX_THREADS', 'VECLIB_MAXIMUM_THREADS', 'NUMBA_NUM_THREADS', 'RAYON_NUM_THREADS', \
    'POLARS_MAX_THREADS']";

#[test]
fn libraries_are_told_one_thread_unless_the_job_says_otherwise_whatever_the_environment_says() {
    let code = format!(
        "import os\ndef classify_df(df):\n    \
            return df.assign(CLASSIFICATION=' '.join(sorted({{os.environ[name] for name in {NAMES}}})))\n"
    );
    assert_eq!(Job::new(&code).answer(), "1");
    let with_own = || Job::new(&code).env("OMP_NUM_THREADS", "7").env("MKL_NUM_THREADS", "5");
    assert_eq!(with_own().answer(), "1");
    assert_eq!(with_own().args(["--threads-per-worker", "3"]).answer(), "3");
}

#[test]
fn a_matrix_product_uses_the_threads_of_the_job() {
    // NumPy's BLAS starts its threads when it is loaded.
    let code = "import os, numpy\nproduct = numpy.ones((300, 300)) @ numpy.ones((300, 300))\n\
        def classify_df(df):\n    return df.assign(CLASSIFICATION=len(os.listdir('/proc/self/task')))\n";
    assert_eq!(Job::new(code).answer(), "1");
    assert_eq!(Job::new(code).env("OPENBLAS_NUM_THREADS", "2").answer(), "1");
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        return tests::skip("a_matrix_product_uses_the_threads_of_the_job", "this machine has one core");
    }
    assert_eq!(Job::new(code).args(["--threads-per-worker", "2"]).answer(), "2");
}

#[test]
fn all_processes_of_a_job_have_the_same_number_and_the_job_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let code = "def classify_df(df):\n    return df.assign(CLASSIFICATION=1)\n";
    let two = super::setup(folder.path(), code).args(["--threads-per-worker", "2"]);
    let mut cluster = two.start();
    let said = {
        let mut other = std::process::Command::new(tests::program_path("classifier"));
        other.env("PYTHONPATH", folder.path()).args([
            "--worker-count",
            "2",
            "--workers",
            "2",
            "--classifier",
        ]);
        other.args(["python:box", "--python"]).arg(tests::python());
        let control = cluster.classifiers[0].address("control");
        other.args(["--control", &control, "--out", &cluster.receiver.address("results")]);
        tests::program::Program::start_command("other", folder.path(), other).failure()
    };
    assert!(said.contains("--threads-per-worker"), "{said}");
    cluster.sender(["--lines", "10"]).success();
    assert_eq!(cluster.results().summary.rows, 10);
}
