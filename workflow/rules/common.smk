import atexit
import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from snakemake.io import report as reported
from snakemake.logging import ColorizingTextHandler
from snakemake.logging import logger as snakemake_logger

# The package works from a checkout as well as installed; jobs are processes of their own.
_package = str(Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent)
sys.path.insert(0, _package)
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys([_package, *filter(None, [os.environ.get("PYTHONPATH")])])
)

from duccmake.config.file import DEFAULT_CONFIG, read_file
from duccmake.errors import DuccmakeError
from duccmake.jobs.away import AWAY_VARIABLE, BOOT_VARIABLE
from duccmake.jobs.job import PLAN_VARIABLE, RUN_VARIABLE
from duccmake.jobs.server import start_server
from duccmake.layer.unpack import LAYER_FORMAT
from duccmake.planning.needs import is_small, to_fetch, to_flatten, to_unpack
from duccmake.planning.plan import Plan, adopting, repositories
from duccmake.repository.model import RECORD_FORMAT
from duccmake.run import adoption, maintenance
from duccmake.run.announcing import announce
from duccmake.run.lines import has_colour, say, without_colour
from duccmake.run.lives import keep
from duccmake.run.events import note_end, note_start
from duccmake.run.own_lines import OwnLines, are_wanted
from duccmake.run.parts import begin_anew, end_failed, heed_signals
from duccmake.run.progress import Gauge, ProgressLine
from duccmake.run.report import report_files
from duccmake.run.session import begin, boot_id, forget_failures, tidy, tidy_alone
from duccmake.run.stopping import exit_on_sigterm, is_told_to_stop, stop_on_signals
from duccmake.run.summary import is_made_up_for, summarise


def has_config():
    """Whether there is a configuration file with anything in it."""
    return DEFAULT_CONFIG.exists() and bool(in_words(read_file, DEFAULT_CONFIG))


def in_words(function, *arguments, **more):
    """The function's value; what goes wrong is said in one line, and ends the run."""
    try:
        return function(*arguments, **more)
    except DuccmakeError as error:
        say(f"duccmake: {error}", stream=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("duccmake: interrupted before any job began", stream=sys.stderr)
        raise SystemExit(130) from None


own_lines = OwnLines()


def shows_own_lines():
    """Whether somebody wants Snakemake's own lines."""
    settings = workflow.output_settings
    by_option = settings.verbose or settings.printshellcmds or settings.debug_dag
    return by_option or are_wanted(sys.argv[1:])


def quieten():
    """Have Snakemake write on the terminal what it refuses; the rest is in its log.

    A logger plugin would have to be installed before this file is read, and `quiet` in a
    profile takes errors away and leaves other lines there.
    """
    if workflow.output_settings.nocolor:
        without_colour()
    for handler in snakemake_logger.handlers:
        if isinstance(handler, ColorizingTextHandler):
            handler.nocolor = not has_colour(handler.stream)
            if not shows_own_lines():
                handler.addFilter(own_lines)
                handler.setStream(sys.stderr)


if workflow.is_main_process:
    quieten()

if has_config():

    configfile: DEFAULT_CONFIG


wildcard_constraints:
    repository=r"[^/]+",
    image=r".+",
    # It is the layer's key, by another name: graphs show what is new to a job alone.
    blob=r"[0-9a-f]{12,128}",
    layer=r"[0-9a-f]{12,128}",
    config=r"[0-9a-f]{12,128}",
    manifest=r"[0-9a-f]{12,128}",
    thin=r"[0-9a-f]{16}",
    problem=r"[0-9]+",
    plan=r"[0-9a-f]{12}",
    gate=r"[0-9]+",
    departures=r"[0-9a-f]{12}",
    garbage=r"[0-9a-f]{12}",
    part=r"[0-9a-f]{12}",


def show_progress():
    """Say how far the run is until `stop_progress`, and what fails meanwhile."""
    global progress
    is_about_images = session.plan.wanted and not asked
    if is_about_images and not (shows_own_lines() or workflow.output_settings.quiet):
        progress = ProgressLine(Gauge(session.plan, session.run), sys.stderr)
        progress.start()
    own_lines.follow(session.run, progress)


def stop_progress():
    """Take the line away that says how far the run is."""
    if progress:
        progress.stop()


progress = None


@functools.cache
def end_run():
    """Say what became of the run, once, to people and to what reads the event log."""
    stop_progress()
    status = summarise(session, workdir=work_directory, only=asked, held_back=held_back)
    forget_failures(session.run)
    note_end(session.plan, status, workdir=work_directory, only=asked)
    return status


def end_part(has_failed):
    """Have the next part begin once Snakemake has ended, or say what became of the run.

    Returns whether it has failed.
    """
    global next_part
    if not is_told_to_stop() and (
        workflow.execution_settings.keep_going or not has_failed
    ):
        next_part = session.next_part(has_failed)
    if next_part:
        stop_progress()
        return has_failed
    status = end_run()
    return has_failed and not is_made_up_for(status, session)


def end_at_exit():
    """Go on with the next part; without one, say what became of the run if nobody has.

    Where Snakemake itself fails, as with a full disk, it calls no other handler.
    """
    if next_part:
        begin_anew(next_part, is_told_to_stop, end_run_from_afar)
    elif has_begun and not end_run.cache_info().currsize:
        end_run_from_afar()


def end_run_from_afar():
    """Say what became of the run when Snakemake has left the working directory."""
    os.chdir(work_directory)
    # What this Snakemake ends with is not what the run has come to.
    if end_run().failed and session.parts > 1:
        end_failed()


has_begun, next_part = False, None
work_directory = Path.cwd()


# Who only looks need not wait for a run that is under way, nor for any registry.
if workflow.is_main_process and "status" in maintenance.targets(sys.argv[1:]):
    from duccmake.commands.main import main

    sys.exit(main(["status"]))

# What a dry run finds is what was asked for, and can be piped.
results = sys.stdout if workflow.output_settings.dryrun else sys.stderr

# Only the main process asks registries; jobs, here or on a cluster, read what it found.
if workflow.is_main_process:
    given = workflow.config_settings.config
    about = {"workdir": Path.cwd(), "arguments": sys.argv[1:], "given": given}
    session = in_words(begin, config, **about)
    asked, held_back = maintenance.targets(sys.argv[1:]), {}
    # Before all that ends with this Snakemake, such as the process that forks jobs, which is
    # therefore ended before: Python calls the last that was registered first.
    atexit.register(end_at_exit)
    if session.number:
        has_begun = True
        exit_on_sigterm()
        in_words(heed_signals)
    is_seen = not workflow.output_settings.dryrun or shows_own_lines()
    # What was asked for by name is about all images, and converts none, or a few.
    if asked:
        os.environ[PLAN_VARIABLE] = str(session.plan_file)
    else:
        part_file = in_words(session.part, Path.cwd(), is_seen=is_seen)
        os.environ[PLAN_VARIABLE] = str(part_file)
    os.environ[RUN_VARIABLE] = str(session.run)
    os.environ[BOOT_VARIABLE] = boot_id()
    # Repositories that too many images would leave at once, each with a line that says so.
    config_of_plan = session.plan.config_in(Path.cwd())
    if not asked:
        held_back = in_words(maintenance.held_back, session.plan, config_of_plan)
    if session.number:
        say(
            f"duccmake: part {session.number + 1} of {session.parts}", stream=sys.stderr
        )
    elif session.polled:
        about = {"held_back": held_back, "parts": session.parts, "results": results}
        in_words(announce, session.plan, only=asked, **about)
elif workflow.remote_exec:
    os.environ[AWAY_VARIABLE] = "yes"
# What this Snakemake is about, as jobs read it: the session's plan, or a part of that.
plan = Plan.load(Path(os.environ[PLAN_VARIABLE]))
plan_name = Path(os.environ[PLAN_VARIABLE]).stem[:12]

# ``job NAME ...`` runs ``scripts/NAME.py``: what Snakemake puts before a script that it
# runs itself takes longer than most of these.  Here, it runs in a fork of a process that has
# imported all it needs.
python = "python" if workflow.deployment_settings.deployment_method else sys.executable
scripts = Path(_package).parent / "scripts"
if (
    workflow.is_main_process
    and python == sys.executable
    and not session.preview
    and (plan.wanted or plan.thins)
):
    start_server(session.run, scripts)
    shell.prefix('job() {{ exec {python:q} -IS {scripts:q}/job.py "$@"; }}; ')
else:
    shell.prefix(
        'job() {{ name=$1; shift; exec {python:q} {scripts:q}/"$name".py "$@"; }}; '
    )


envvars:
    PLAN_VARIABLE,
    RUN_VARIABLE,
    BOOT_VARIABLE,
    "PYTHONPATH",


# One publisher a repository at a time: the lock in the repository is the guarantee, this
# keeps jobs from waiting for it.
def publisher_of(repository):
    """How many publishers of the repository a job needs."""
    return lambda wildcards: int(wildcards.repository == repository)


if "downloads" not in workflow.global_resources:
    workflow.register_resource("downloads", plan.config_in(Path.cwd()).limits.downloads)

publisher, all_publishers = {}, {}
for number, name in enumerate(repositories(plan)):
    resource = f"publisher_{number}"
    workflow.register_resource(resource, 1)
    publisher[resource], all_publishers[resource] = publisher_of(name), 1


onstart:
    global has_begun
    stop_on_signals(workflow.scheduler.exit_gracefully, cancel_on_cluster)
    tidy(session.plan, session.plan_file, Path(os.environ[PLAN_VARIABLE]))
    if session.number == 0:
        has_begun = True
        note_start(session.plan, session.run, workdir=Path.cwd(), only=asked)
        if not asked:
            keep(session.plan, config_of_plan, session.seen, has_ended=False)
    show_progress()
    lift_default_limit()
    make_room_for_downloads()
    spare_pandas()


onsuccess:
    has_failed = end_part(has_failed=session.has_failed)
    # What was made anew may be damaged still.
    if has_failed or (not next_part and end_run().counts.get("damaged")):
        sys.exit(1)


onerror:
    cancel_on_cluster()
    if not end_part(has_failed=True):
        sys.exit(0)


def cancel_on_cluster():
    """Cancel what a cluster still runs or has waiting.

    Snakemake does so at Control-C, but for jobs that it asks the state of at that moment.
    """
    executor = getattr(getattr(workflow, "scheduler", None), "_executor", None)
    if jobs := list(getattr(executor, "active_jobs", ())):
        executor.cancel_jobs(jobs)


def lift_default_limit():
    """Start jobs on this machine without Snakemake's limit of 100 a second.

    It has a timer that each run which did something waits for, a second, before it
    ends.  A limit that somebody has set stays; so does the wait where a version of
    Snakemake keeps the limit elsewhere.
    """
    limit = getattr(workflow.scheduling_settings, "max_jobs_per_timespan", None)
    scheduler = getattr(workflow, "scheduler", None)
    is_default = limit and (limit.max_jobs, limit.timespan) == (100, 1)
    if workflow.local_exec and is_default and hasattr(scheduler, "job_rate_limiter"):
        scheduler.job_rate_limiter = None


def make_room_for_downloads():
    """Have Snakemake wait for more jobs than cores, as for a group that is larger.

    It has a few threads for such jobs.  A version that keeps them elsewhere has those.
    """
    executor = getattr(getattr(workflow, "scheduler", None), "_executor", None)
    if workflow.local_exec and hasattr(executor, "pool"):
        executor.pool.shutdown()
        executor.workers += int(workflow.global_resources["downloads"].value)
        executor.pool = ThreadPoolExecutor(executor.workers)


def spare_pandas():
    """Keep Snakemake from importing pandas after the first job: no rule has a table as a param.

    It takes as long as several jobs.  A version of Snakemake that does it elsewhere does it.
    """
    persistence = type(getattr(workflow, "persistence", None))
    plain = getattr(persistence, "_serialize_param_builtin", None)
    if plain and isinstance(getattr(persistence, "_serialize_param", None), property):
        persistence._serialize_param = property(
            lambda self: functools.partial(plain, self)
        )


@functools.cache
def get_targets():
    """All that this Snakemake is about: images to publish, and problems to fail with."""
    published = [get_receipt(image) for image in plan.wanted]
    thins = [str(thin.output) for thin in plan.thins]
    if workflow.is_main_process and session.reports:
        return published + get_reported()
    return or_nothing(published + thins + get_problems() + get_removals())


def get_reported():
    """What `snakemake --report` shows of the last run, each file with its caption."""
    return [
        reported(
            str(path),
            caption=f"report/{name}.rst",
            category="Images" if name in ("images", "table") else "Pictures",
        )
        for name, path in in_words(report_files, Path.cwd()).items()
    ]


def get_receipt(image):
    """What says that an image is published."""
    return f"results/{image.repository}/published/{image.name}/{plan.key(image.manifest)}.json"


def get_published_of_thin(wildcards):
    """What says that the images of a thin image are published, where that is yet to be done."""
    thin = plan.thin(wildcards.repository, wildcards.image)
    images = [plan.image(thin.repository, name) for name in thin.images]
    return [get_receipt(image) for image in images if plan.wants(image)]


def get_thin_target(wildcards):
    """Where a thin image is pushed to."""
    return plan.thin(wildcards.repository, wildcards.image).target


def get_thin_why(wildcards):
    """Why a thin image is pushed, for people."""
    return plan.thin(wildcards.repository, wildcards.image).why


def or_nothing(targets):
    """The targets; without any, what is there lets Snakemake say that nothing is to be done."""
    return targets or [os.environ[PLAN_VARIABLE]]


def get_removals():
    """What a run has to remove, as the configuration has it; jobs need not know."""
    config = plan.config_in(Path.cwd())
    policy = config.removal.policy
    if not workflow.is_main_process:
        return []
    if session.number + 1 < session.parts:
        return []
    refusals = maintenance.refusals(session.plan)
    if policy == "keep" or config.resolve.only:
        return refusals
    prunings = maintenance.prunings(session.plan, without=held_back)
    return refusals + prunings + (get_collections() if policy == "prune" else [])


@functools.cache
def get_whole():
    """The plan with all images."""
    return session.plan if workflow.is_main_process else plan.in_full()


def get_prunings():
    """What says that images that are not wished for have left, of each repository."""
    return maintenance.prunings(get_whole())


def get_collections(tell=False):
    """What says that garbage was collected, of each repository that has any."""
    config = plan.config_in(Path.cwd())
    return in_words(maintenance.collections, get_whole(), config, tell=tell)


def get_adoptions():
    """What says that images of DUCC's are taken over."""
    return [get_receipt(image) for image in adopting(plan)]


@functools.cache
def get_verification():
    """What a sample is drawn by, and the parts of what is to be verified."""
    config = plan.config_in(Path.cwd())
    keep = not workflow.output_settings.dryrun
    return in_words(maintenance.verification, plan, config, keep=keep)


def get_repairs():
    """What says that damaged images are published anew, and why others cannot be."""
    return [get_receipt(image) for image in plan.wanted] + get_problems()


def get_problems():
    """What reports wishes that cannot be followed."""
    return [
        f"results/problems/{problem.number}"
        for problem in plan.problems
        if not (problem.ignorable or problem.until)
    ]


def get_pruning(wildcards):
    """What pruning a repository would do, for people."""
    config = plan.config_in(Path.cwd())
    return in_words(
        maintenance.pruning_in_words, get_whole(), config, wildcards.repository
    )


def get_collection(wildcards):
    """What collecting garbage would do, for people."""
    config = plan.config_in(Path.cwd())
    return in_words(
        maintenance.collection_in_words, get_whole(), config, wildcards.repository
    )


def get_unpinning(wildcards):
    """What lifting a pin does, for people."""
    return maintenance.unpinning_in_words(plan.config_in(Path.cwd()))


def get_rollback(wildcards):
    """What pointing an image back does, for people."""
    return maintenance.rollback_in_words(plan.config_in(Path.cwd()))


def get_staged_layers(image):
    """The staged directories of an image's layers that are not published yet."""
    return [
        f"results/{image.repository}/layers/{key}" for key in plan.staged_layers(image)
    ]


def get_gate(wildcards):
    """What the layer waits for before it is fetched, in an initial fill of many images."""
    return gates_at(plan.gate(wildcards.blob))


def get_gate_before(wildcards):
    """Gates are opened in turn."""
    return gates_at(int(wildcards.gate) - 1)


def gates_at(number):
    """The gate of that number; there is none before the first images."""
    return [f"results/gates/{plan_name}/{number}"] if number else []


def get_layers_of_image(wildcards):
    """What publishing needs staged of an image's layers."""
    return get_staged_layers(plan.image(wildcards.repository, wildcards.image))


def get_layers_of_tree(wildcards):
    """What flattening needs staged of an image's layers."""
    return get_staged_layers(plan.with_tree(wildcards.repository, wildcards.config)[0])


def get_flat_of_image(wildcards):
    """The staged flat tree of an image, unless the repository has what is needed of it."""
    image = plan.image(wildcards.repository, wildcards.image)
    if image.prepared:
        return []
    return f"results/{image.repository}/flat/{plan.flat_key(image)}"


def get_why(wildcards):
    """Why an image is pending, for people."""
    return plan.image(wildcards.repository, wildcards.image).why


def get_reason(wildcards):
    """Why a wish cannot be followed, for people."""
    return plan.problem(int(wildcards.problem)).reason


def get_blob_digest(wildcards):
    """The whole digest behind the key of a layer's blob."""
    return str(plan.layer_digest(wildcards.blob))


def get_diff_algorithms(wildcards):
    """How what the layer unpacks to has to be measured."""
    return plan.diff_algorithms(wildcards.layer)


def get_needs(needs, *wildcards):
    """The resources of a job, for a cluster that runs it: memory, disk and time."""

    def get_resource(name):
        def get(of_job, attempt):
            keys = (getattr(of_job, wildcard) for wildcard in wildcards)
            return getattr(needs(plan, *keys, attempt), name)

        return get

    return {name: get_resource(name) for name in ("mem_mb", "disk_mb", "runtime")}


def get_download_threads(wildcards):
    """A download waits for the network, and holds no core of this machine."""
    return 0 if workflow.local_exec else 1


def get_download(wildcards):
    """What a download takes of those that this machine has at a time."""
    return 1 if workflow.local_exec else 0


def get_all_downloads(wildcards):
    """All downloads that this machine has at a time."""
    return get_download(wildcards) * workflow.global_resources["downloads"].value


def get_group_of_layer(wildcards):
    """What is one job for a cluster: a layer fetched and unpacked, or several small ones."""
    if workflow.local_exec:
        return None
    key = wildcards.get("blob") or wildcards.layer
    return "small_layers" if is_small(plan, key) else "layer"


def get_group_of_tree(wildcards):
    """Flat trees that a cluster makes in one job."""
    return None if workflow.local_exec else "flat_trees"


@functools.cache
def get_form():
    """How layers and flat trees are staged, as the backend wants them."""
    return plan.config_in(Path.cwd()).repository.staged_form


def get_tree_digest(wildcards):
    """The whole digest behind a flat tree's key."""
    image = plan.with_tree(wildcards.repository, wildcards.config)[0]
    return str(image.tree)


def get_manifest_digest(wildcards):
    """The whole digest of the manifest that is to be published."""
    return str(plan.image(wildcards.repository, wildcards.image).manifest)


if workflow.is_main_process and session.polled and workflow.output_settings.dryrun:
    preview = in_words(maintenance.preview, session.plan, config_of_plan, asked)
    in_words(say, *preview, stream=results)

if workflow.is_main_process and "adopt" in asked:
    in_words(adoption.tell, session.plan, config_of_plan, results)


# Snakemake calls no handler when there is nothing to do.
if workflow.is_main_process and not (session.preview or asked):
    if get_targets() == or_nothing([]):
        in_words(tidy_alone, session)
        summarise(session, workdir=Path.cwd(), held_back=held_back)

if workflow.is_main_process and session.polled and workflow.output_settings.dryrun:
    say("duccmake: a dry run: no repository was changed", stream=sys.stderr)


# From here on Snakemake has its lock, and until jobs start nothing ends it in order.
if workflow.is_main_process:
    exit_on_sigterm()
