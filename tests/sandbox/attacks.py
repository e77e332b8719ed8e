"""Programs that do what a locked process must not; each ends well only if it could."""

FILES = {
    "read a file of the user's": "open(SECRET).read()",
    "list a folder": "os.listdir(HOME)",
    "append to a file": "open(SECRET, 'a').write('x')",
    "create a file": "open(HOME + '/new', 'w')",
    "empty a file opened for reading": "os.open(SECRET, os.O_RDONLY | os.O_TRUNC)",
    "make a nameless file": "os.open(HOME, os.O_TMPFILE | os.O_RDWR)",
    "truncate": "os.truncate(SECRET, 0)",
    "delete": "os.unlink(SECRET)",
    "rename": "os.rename(SECRET, HOME + '/moved')",
    "make a folder": "os.mkdir(HOME + '/folder')",
    "make a link": "os.symlink(SECRET, HOME + '/link')",
    "make a second name": "os.link(SECRET, HOME + '/other')",
    "change rights": "os.chmod(SECRET, 0o777)",
    "change times": "os.utime(SECRET, (0, 0))",
    "make a pipe with a name": "os.mkfifo(HOME + '/pipe')",
    "go elsewhere": "os.chdir(HOME)",
    "write into its own folder": "open(os.getcwd() + '/repotune-sandbox-test', 'x')",
    "read its environment": "open('/proc/self/environ').read()",
    "read its parent's environment": "open(f'/proc/{os.getppid()}/environ').read()",
    "read its parent's memory map": "open(f'/proc/{os.getppid()}/maps').read()",
    "list processes": "os.listdir('/proc')",
    "read the users": "open('/etc/passwd').read()",
    "make memory with a name": "os.memfd_create('x')",
}
NETWORK = {
    "connect over TCP": "socket.create_connection(('127.0.0.1', PORT), 5)",
    "connect over IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "make datagrams": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "connect to a Unix socket": "socket.socket(socket.AF_UNIX).connect(UNIX)",
    "make a pair of sockets": "socket.socketpair()",
    "talk to the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
}
PROCESSES = {
    "start a program": "subprocess.run(['/bin/true'], check=True)",
    "become a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork() or os._exit(0)",
    "start a thread": "threading.Thread(target=int).start()",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal itself": "os.kill(os.getpid(), 0)",
    "signal everything": "os.kill(-1, 0)",
    "signal by descriptor": "os.pidfd_open(os.getppid())",
    "read its parent's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "look at its parent's priority": "os.getpriority(os.PRIO_PROCESS, os.getppid())",
    "bind its parent to cores": "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
    "leave its session": "os.setpgid(0, 0)",
    "have files signal somebody": "fcntl.fcntl(1, fcntl.F_SETOWN, os.getpid())",
}
ALL = {**FILES, **NETWORK, **PROCESSES}


def attack(name, home, *, port=0, unix=""):
    """The program, with the places that it attacks."""
    return (
        "import fcntl, os, resource, signal, socket, subprocess, threading\n"
        f"HOME, SECRET, PORT, UNIX = {str(home)!r}, {str(home / 'secret')!r}, {port}, {unix!r}\n"
        f"{ALL[name]}\n"
    )
