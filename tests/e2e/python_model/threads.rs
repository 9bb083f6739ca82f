//! The number of threads of a model's libraries.

use std::process::Command;

use tests::program::Program;

use super::job::Job;

const NAMES: &str = "['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS', \
    'NUMEXPR_NUM_THREADS', 'NUMEXPR_MAX_THREADS', 'VECLIB_MAXIMUM_THREADS', 'NUMBA_NUM_THREADS', 'RAYON_NUM_THREADS', \
    'POLARS_MAX_THREADS']";

#[test]
fn the_job_and_not_the_environment_sets_the_threads_of_libraries() {
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
        def name(task):\n    return open(f'/proc/self/task/{task}/comm').read().strip()\n\
        def classify_df(df):\n    \
            # pyarrow's allocator has one of its own.\n    \
            tasks = [task for task in os.listdir('/proc/self/task') if name(task) != 'jemalloc_bg_thd']\n    \
            return df.assign(CLASSIFICATION=len(tasks))\n";
    assert_eq!(Job::new(code).answer(), "1");
    assert_eq!(Job::new(code).env("OPENBLAS_NUM_THREADS", "2").answer(), "1");
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        return tests::skip("a_matrix_product_uses_the_threads_of_the_job", "this machine has one core");
    }
    assert_eq!(Job::new(code).args(["--threads-per-worker", "2"]).answer(), "2");
}

#[test]
fn a_process_with_another_number_of_threads_cannot_join() {
    let job = Job::new("def classify_df(df):\n    return df.assign(CLASSIFICATION=1)\n");
    let args = |more: &[&str]| {
        let mut args =
            ["--worker-count", "2", "--classifier", "python:model", "--python"].map(str::to_owned).to_vec();
        args.push(tests::python().display().to_string());
        args.extend(more.iter().map(|&word| word.to_owned()));
        args
    };
    let classifier = |args: Vec<String>| {
        let mut command = Command::new(tests::program_path("classifier"));
        command.args(args).env("PYTHONPATH", job.folder.path());
        command
    };
    let more = ["--cluster-initializer", "--in", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    let mut initializer =
        Program::start_server_command("classifier", job.folder.path(), classifier(args(&more)));
    let control = initializer.address("control");
    let other = classifier(args(&["--threads-per-worker", "2", "--control", &control]));
    let said = Program::start_command("other", job.folder.path(), other).failure();
    assert!(said.contains("--slowness 10 --threads-per-worker 2"), "{said}");
}
