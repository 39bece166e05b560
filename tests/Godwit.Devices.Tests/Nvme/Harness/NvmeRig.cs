using System.Collections.Concurrent;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices.Tests;

/// <summary>A folder of its own with an image in it.</summary>
internal sealed class TempImage : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-nvme-").FullName;

    public TempImage(long size = 1 << 20, bool create = true)
    {
        Size = size;
        if (create)
        {
            using FileStream file = File.Create(Path);
            file.SetLength(size);
        }
    }

    public string Path => System.IO.Path.Combine(_folder, "disk.img");

    public string Folder => _folder;

    public long Size { get; }

    public NvmeOptions Options => new() { ImagePath = Path, Serial = "TEST-1", BlockSize = 512, MaxQueues = 8 };

    public void Dispose() => Directory.Delete(_folder, recursive: true);
}

/// <summary>An image, a controller on it, guest memory, and a driver.</summary>
internal sealed class NvmeRig : IDisposable
{
    private readonly TempImage? _ownImage;
    private readonly GuestMemory? _ownMemory;

    public NvmeRig(Func<NvmeOptions, NvmeOptions>? change = null, TempImage? image = null, GuestMemory? memory = null, bool connect = true)
    {
        Image = image ?? (_ownImage = new TempImage());
        Memory = memory ?? (_ownMemory = new GuestMemory(16 << 20));
        NvmeOptions options = Image.Options;
        Controller = NvmeController.Create(change is null ? options : change(options), Log.Enqueue);
        Host = new FakeHost(Memory);
        Driver = new GuestDriver(Memory, new DirectRegisters(Controller), () => Host.TriggerCount, seen => Host.WaitForTrigger(seen));
        if (connect)
            Controller.OnConnected(Host);
    }

    public TempImage Image { get; }

    public GuestMemory Memory { get; }

    public NvmeController Controller { get; }

    public FakeHost Host { get; }

    public GuestDriver Driver { get; }

    public ConcurrentQueue<string> Log { get; } = new();

    public static implicit operator GuestDriver(NvmeRig rig) => rig.Driver;

    /// <summary>An enabled controller with one I/O queue pair.</summary>
    public static NvmeRig Started(out GuestQueue queue, Func<NvmeOptions, NvmeOptions>? change = null, int entries = 64)
    {
        var rig = new NvmeRig(change);
        rig.Driver.Enable();
        queue = rig.Driver.CreateQueue(1, entries);
        return rig;
    }

    public void Go(params DeviceMigrationState[] way)
    {
        DeviceMigrationState from = way[0];
        foreach (DeviceMigrationState to in way.AsSpan(1))
        {
            Assert.Equal(Errno.None, Controller.Transition(from, to));
            from = to;
        }
    }

    public string AllLog => string.Join('\n', Log);

    public void Dispose()
    {
        Controller.OnDisconnected();
        Controller.Dispose();
        _ownMemory?.Dispose();
        _ownImage?.Dispose();
        Assert.DoesNotContain("defect", AllLog, StringComparison.Ordinal);
        Assert.Empty(Host.Violations);
    }
}
