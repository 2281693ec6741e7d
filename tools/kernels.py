"""Kernels that start quickly.

A kernel that starts from nothing imports NumPy, SciPy, matplotlib, MNE-Python and IPython before
it runs its first cell: more than two seconds of a processor, hundreds of times. On Linux one process
imports them once, and every kernel is a copy of it, as fresh as a kernel of its own in all that
notebooks can tell: only modules of other packages are there already. Elsewhere kernels start from
nothing, as always.
"""

import multiprocessing
import os
import sys
import uuid

from jupyter_client.provisioning import LocalProvisioner
from nbclient import NotebookClient

READY = [
    "IPython.core.completer",
    "fastcore.test",
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "ipywidgets",
    "jupyter_client.provisioning",
    "matplotlib.pyplot",
    "mne",
    "mne.bem",
    "mne.channels.montage",
    "mne.cov",
    "mne.epochs",
    "mne.evoked",
    "mne.forward._make_forward",
    "mne.io.constants",
    "mne.label",
    "mne.minimum_norm.inverse",
    "mne.simulation.evoked",
    "mne.source_estimate",
    "mne.viz.topomap",
    "nbclient",
    "nibabel",
    "psutil",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.signal",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "threadpoolctl",
]


def prepare():
    "Have the process ready from which kernels are copied"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(READY)
    return context


def be_a_kernel(arguments, folder, search):
    "What a copy runs: an ordinary kernel, in a folder and with a search path of its own"
    from ipykernel.kernelapp import IPKernelApp

    os.setsid()
    os.chdir(folder)
    # As in a kernel where nobody chose. A copy would keep to the way in which it was made itself,
    # whose locks have names, and these stay behind when a kernel that ends too slowly is killed
    multiprocessing.set_start_method(None, force=True)
    sys.path[:] = search
    sys.argv = ["ipykernel_launcher", *arguments]
    ends_with = f"--IPKernelApp.parent_handle={os.getppid()}"
    IPKernelApp.launch_instance(argv=[*arguments, ends_with])


class Child:
    "A process of multiprocessing, with the names of subprocess.Popen that a provisioner asks for"

    stdin = stdout = stderr = None

    def __init__(self, process):
        self.process = process
        self.pid = process.pid
        self.kill = process.kill
        self.terminate = process.terminate

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)


class Copied(LocalProvisioner):
    "Starts a kernel as a copy of the process that is ready"

    async def launch_kernel(self, cmd, **kwargs):
        arguments = cmd[cmd.index("-f") :]
        search = ["", *(p for p in sys.path if p != os.path.dirname(__file__))]
        process = prepare().Process(target=be_a_kernel, args=(arguments, kwargs["cwd"], search))
        process.start()
        self.process = Child(process)
        self.pid = process.pid
        self.pgid = None
        self.cwd = kwargs["cwd"]
        return self.connection_info


class Client(NotebookClient):
    "Runs a notebook in a kernel that starts quickly"

    def create_kernel_manager(self):
        manager = super().create_kernel_manager()
        if sys.platform == "linux":
            manager.provisioner = Copied(
                kernel_id=str(uuid.uuid4()), kernel_spec=manager.kernel_spec, parent=manager
            )
        return manager
