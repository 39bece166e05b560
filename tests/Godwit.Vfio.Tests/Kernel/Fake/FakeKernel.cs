using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>
/// The kernel behind <see cref="IKernelCalls"/>, by its documented rules (Linux include/uapi/linux/vfio.h and iommufd.h,
/// Documentation/driver-api/vfio.rst, Documentation/userspace-api/iommufd.rst, and what drivers/vfio and drivers/iommu/iommufd answer). It reads
/// the structures byte by byte, writes through the pointers in them, and keeps a ledger of what is open, mapped and locked. Any call can be
/// made to fail.
/// </summary>
internal sealed class FakeKernel : IKernelCalls, IDisposable
{
    private const int FirstNumber = 1 << 20; // no real descriptor has such a number

    private readonly Dictionary<int, FakeFile> _open = [];
    private readonly Dictionary<int, InheritedDescriptor> _inherited = [];
    private readonly List<string> _trace = [];
    private readonly List<(FakeFile File, MemoryMapping Mapping)> _maps = [];
    private int _next = FirstNumber;

    private readonly bool _ownsSysfs;

    /// <summary>With a directory of its own, unless one is given that others use too.</summary>
    public FakeKernel(FakeSysfs? sysfs = null)
    {
        _ownsSysfs = sysfs is null;
        Sysfs = sysfs ?? new FakeSysfs();
    }

    public Lock Gate { get; } = new();

    public FakeSysfs Sysfs { get; }

    public HostPci Host => new(Sysfs.Root);

    /// <summary>Device nodes by path, and what opening one gives.</summary>
    public Dictionary<string, Func<FakeFile>> Nodes { get; } = new(StringComparer.Ordinal);

    /// <summary>What opening a path answers instead.</summary>
    public Dictionary<string, Errno> Refusals { get; } = new(StringComparer.Ordinal);

    public ulong MemoryLockLimit { get; set; } = resource.RLIM_INFINITY;

    /// <summary>Bytes that all address spaces have locked.</summary>
    public ulong LockedBytes { get; set; }

    /// <summary>Mappings of all address spaces.</summary>
    public int Mappings { get; set; }

    /// <summary>Parts of files mapped into the process: offset in the file and bytes.</summary>
    public IReadOnlyList<MemoryMapping> Mapped
    {
        get
        {
            lock (Gate)
                return [.. _maps.Where(m => !m.Mapping.IsClosed).Select(m => m.Mapping)];
        }
    }

    /// <summary>Files that were closed while parts of them were mapped, which keeps them open.</summary>
    public List<string> ClosedWhileMapped { get; } = [];

    /// <summary>Number of the call, in the order of <see cref="Trace"/>, that fails, and how; the call has no effect then.</summary>
    public (int Call, Errno Errno)? Fault { get; set; }

    /// <summary>A second one: so many calls after the first (1: the next), failing by what is called.</summary>
    public (int After, Func<string, Errno> Errno)? SecondFault { get; set; }

    /// <summary>Names of the calls made, in order.</summary>
    public IReadOnlyList<string> Trace
    {
        get
        {
            lock (Gate)
                return [.. _trace];
        }
    }

    /// <summary>Descriptors open, by what they are.</summary>
    public IReadOnlyList<string> Open
    {
        get
        {
            lock (Gate)
                return [.. _open.Values.Select(f => f.ToString()!)];
        }
    }

    /// <summary>Nothing is open, mapped or locked.</summary>
    public void AssertClean(string after)
    {
        lock (Gate)
            Assert.True(_open.Count == 0 && Mappings == 0 && LockedBytes == 0 && Mapped.Count == 0 && ClosedWhileMapped.Count == 0,
                $"after {after}: open {string.Join(", ", _open.Values)}; {Mappings} mappings, {LockedBytes} bytes locked; {Mapped.Count} mapped here; closed while mapped {string.Join(", ", ClosedWhileMapped)}");
    }

    /// <summary>A descriptor as another program would leave it behind for this one.</summary>
    public int Inherit(FakeFile file, InheritedDescriptor descriptor)
    {
        lock (Gate)
        {
            int number = Add(file);
            _inherited[number] = descriptor;
            return number;
        }
    }

    public FakeFile? Find(int number)
    {
        lock (Gate)
            return _open.GetValueOrDefault(number);
    }

    /// <summary>A new descriptor for <paramref name="file"/>, as the kernel returns one from a call.</summary>
    public int Add(FakeFile file)
    {
        lock (Gate)
        {
            _open.Add(_next, file);
            file.References++;
            return _next++;
        }
    }

    Errno IKernelCalls.Open(string path, out FileDescriptor? file)
    {
        file = null;
        lock (Gate)
        {
            if (Begin($"open {path}") is var failed && failed != Errno.None)
                return failed;
            if (Refusals.TryGetValue(path, out Errno refused))
                return refused;
            if (!Nodes.TryGetValue(path, out Func<FakeFile>? node))
                return Errno.ENOENT;
            FakeFile opened = node();
            Errno errno = opened.OnOpen();
            if (errno != Errno.None)
                return errno;
            file = Adopt(Add(opened));
            return Errno.None;
        }
    }

    public FileDescriptor Adopt(int number) => new FakeDescriptor(this, number);

    public Errno Inspect(int number, out InheritedDescriptor descriptor)
    {
        lock (Gate)
        {
            descriptor = default;
            if (Begin("fstat") is var failed && failed != Errno.None)
                return failed;
            return _inherited.TryGetValue(number, out descriptor) && _open.ContainsKey(number) ? Errno.None : Errno.EBADF;
        }
    }

    public Errno SetCloseOnExec(FileDescriptor file)
    {
        lock (Gate)
        {
            if (Begin("fcntl") is var failed && failed != Errno.None)
                return failed;
            _inherited[file.Number] = _inherited[file.Number] with { CloseOnExec = true };
            return Errno.None;
        }
    }

    public Errno Ioctl(FileDescriptor file, uint request, Span<byte> argument, out int result)
    {
        lock (Gate)
        {
            result = -1;
            FakeFile target = Target(file);
            if (Begin(target.NameOf(request)) is var failed && failed != Errno.None)
                return failed;
            Errno errno = target.Ioctl(request, argument, out result);
            if (errno != Errno.None)
                result = -1;
            return errno;
        }
    }

    public Errno Ioctl(FileDescriptor file, uint request, nuint argument, out int result)
    {
        lock (Gate)
        {
            result = -1;
            FakeFile target = Target(file);
            if (Begin(target.NameOf(request)) is var failed && failed != Errno.None)
                return failed;
            return target.Ioctl(request, argument, out result);
        }
    }

    public Errno Read(FileDescriptor file, Span<byte> destination, out int count)
    {
        lock (Gate)
        {
            count = 0;
            return Begin("read") is var failed && failed != Errno.None ? failed : Target(file).Read(destination, out count);
        }
    }

    public Errno Write(FileDescriptor file, ReadOnlySpan<byte> data, out int count)
    {
        lock (Gate)
        {
            count = 0;
            return Begin("write") is var failed && failed != Errno.None ? failed : Target(file).Write(data, out count);
        }
    }

    public Errno Map(FileDescriptor file, ulong offset, ulong length, bool writable, out MemoryMapping? mapping)
    {
        lock (Gate)
        {
            mapping = null;
            if (Begin("mmap") is var failed && failed != Errno.None)
                return failed;
            FakeFile target = Target(file);
            Errno errno = target.Map(offset, length, writable, out mapping);
            if (mapping is not null)
                _maps.Add((target, mapping));
            return errno;
        }
    }

    public Errno ReadAt(FileDescriptor file, ulong offset, Span<byte> destination, out int count)
    {
        lock (Gate)
        {
            count = 0;
            return Begin("pread") is var failed && failed != Errno.None ? failed : Target(file).ReadAt(offset, destination, out count);
        }
    }

    public Errno WriteAt(FileDescriptor file, ulong offset, ReadOnlySpan<byte> data, out int count)
    {
        lock (Gate)
        {
            count = 0;
            return Begin("pwrite") is var failed && failed != Errno.None ? failed : Target(file).WriteAt(offset, data, out count);
        }
    }

    public void Dispose()
    {
        if (_ownsSysfs)
            Sysfs.Dispose();
    }

    private Errno Begin(string call)
    {
        _trace.Add(call);
        if (Fault is not { } fault)
            return Errno.None;
        int after = _trace.Count - 1 - fault.Call;
        return after == 0 ? fault.Errno : SecondFault is { } second && after == second.After ? second.Errno(call) : Errno.None;
    }

    private FakeFile Target(FileDescriptor file)
    {
        ObjectDisposedException.ThrowIf(file.IsClosed, file);
        return _open[file.Number];
    }

    private void Close(int number)
    {
        lock (Gate)
        {
            if (!_open.Remove(number, out FakeFile? file))
                throw new InvalidOperationException($"descriptor {number} is closed twice");
            _inherited.Remove(number);
            if (_maps.Any(m => m.File == file && !m.Mapping.IsClosed))
                ClosedWhileMapped.Add(file.ToString()!);
            if (--file.References == 0)
                file.OnClose();
        }
    }

    private sealed class FakeDescriptor : FileDescriptor
    {
        private readonly FakeKernel _kernel;

        public FakeDescriptor(FakeKernel kernel, int number)
        {
            _kernel = kernel;
            SetHandle(number);
        }

        protected override bool ReleaseHandle()
        {
            _kernel.Close((int)handle);
            return true;
        }
    }
}

/// <summary>An open file description. Called under the kernel's gate.</summary>
internal abstract class FakeFile
{
    public int References { get; set; }

    /// <summary>The requests that this kind of file knows, by name.</summary>
    public abstract string NameOf(uint request);

    public virtual Errno OnOpen() => Errno.None;

    public virtual void OnClose()
    {
    }

    public virtual Errno Ioctl(uint request, Span<byte> argument, out int result)
    {
        result = 0;
        return Errno.ENOTTY;
    }

    public virtual Errno Ioctl(uint request, nuint argument, out int result)
    {
        result = 0;
        return Errno.ENOTTY;
    }

    public virtual Errno Read(Span<byte> destination, out int count)
    {
        count = 0;
        return Errno.EINVAL;
    }

    public virtual Errno Write(ReadOnlySpan<byte> data, out int count)
    {
        count = 0;
        return Errno.EINVAL;
    }

    public virtual Errno Map(ulong offset, ulong length, bool writable, out MemoryMapping? mapping)
    {
        mapping = null;
        return Errno.ENODEV;
    }

    public virtual Errno ReadAt(ulong offset, Span<byte> destination, out int count)
    {
        count = 0;
        return Errno.EINVAL;
    }

    public virtual Errno WriteAt(ulong offset, ReadOnlySpan<byte> data, out int count)
    {
        count = 0;
        return Errno.EINVAL;
    }
}
