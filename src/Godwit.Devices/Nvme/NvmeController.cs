using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Devices;

/// <summary>
/// An NVMe controller (NVM Express Base 1.4) with one namespace on an image file, for a vfio-user server. The members of
/// <see cref="IVfioUserDevice"/> belong to the server, which makes one call at a time, called the message thread here; <see cref="Statistics"/> may be read from any thread.
/// </summary>
/// <remarks>
/// <para>Commands execute on threads of the controller. DMA goes only through the connected client's mappings.</para>
/// <para>
/// Exactly once: a worker reserves the slot of a command's completion before it takes the command, executes it, and passes the submission
/// queue's head together with posting the completion. Stopping waits for the commands taken. So in the saved state a command is
/// either complete, with its completion in the guest's memory, or still between head and tail, where the destination takes it. Async
/// Event Requests, which complete when something happens, are saved by their ids.
/// </para>
/// <para>
/// The image belongs to one server at a time (an exclusive lock on the open file). An enabled controller takes it when it enters a
/// running state and lets it go when it stops, so that a migration hands it over; the server that cannot have it in time refuses to run.
/// </para>
/// </remarks>
public sealed partial class NvmeController : IVfioUserDevice, IDisposable
{
    private static readonly TimeSpan QuietReminder = TimeSpan.FromSeconds(5);

    private readonly NvmeOptions _options;
    private readonly LogLimiter _log;
    private readonly ImageFile _image;
    private readonly NvmeCore _core;
    private readonly ImageOwnership _ownership;
    private readonly PciConfiguration _pci;
    private readonly byte[] _msixTable;
    private readonly NvmeStateFormat _format;
    private readonly MigrationSession _session;
    private bool _connected;
    private bool _disposed;

    private NvmeController(NvmeOptions options, ImageFile image, LogLimiter log)
    {
        var limits = NvmeLimits.From(options, image.Size);
        var identity = new NvmeIdentity(options.Serial ?? NvmeIdentity.DefaultSerial(options.ImagePath));
        _options = options;
        _log = log;
        _image = image;
        _ownership = new ImageOwnership(image, options.Clock, log);
        _pci = new PciConfiguration(limits.Vectors);
        _msixTable = new byte[limits.Vectors * PciIdentity.MsixEntrySize];
        _format = new NvmeStateFormat(limits, identity);
        _session = new MigrationSession(_format, log);
        _core = new NvmeCore(limits, identity, image, options.Workers, options.Clock, log);
        Description = new DeviceDescription
        {
            Regions = new Dictionary<int, DeviceRegion>
            {
                [PciRegion.Bar0] = new(PciIdentity.Bar0Size, Doorbells: [new DoorbellRange(NvmeRegister.Doorbells, limits.QueueSlots * 2)]),
                [PciRegion.Config] = new(PciIdentity.ConfigurationSize),
            },
            Irqs = new Dictionary<int, int>
            {
                [PciIrq.Intx] = 1,
                [PciIrq.Msix] = limits.Vectors,
                [PciIrq.Error] = 1, // clients such as QEMU expect it; never signalled, since fatal errors are the guest's to see (CSTS.CFS)
            },
            Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        };
    }

    /// <summary>Opens (or creates) the image and makes a disabled controller on it.</summary>
    /// <param name="options">What to make.</param>
    /// <param name="log">Told one line per event worth an operator's eye, from any thread; repeated errors are thinned out.</param>
    /// <exception cref="NvmeOptionsException">An option is out of range or does not fit the image.</exception>
    /// <exception cref="LinuxException">The image cannot be opened or created.</exception>
    public static NvmeController Create(NvmeOptions options, Action<string>? log)
    {
        NvmeLimits.Validate(options);
        var limiter = new LogLimiter(log);
        ImageFile image = ImageFile.Open(options, limiter);
        return new NvmeController(options, image, limiter);
    }

    /// <summary>A controller on a file that is open already, which it then owns.</summary>
    internal static NvmeController CreateOn(NvmeOptions options, ImageFile image, LogLimiter log)
    {
        NvmeLimits.Validate(options);
        return new NvmeController(options, image, log);
    }

    /// <inheritdoc/>
    public DeviceDescription Description { get; }

    /// <summary>Bytes of the namespace.</summary>
    public ulong ImageSize => _image.Size;

    /// <summary>Serial number as the guest sees it.</summary>
    public string Serial => _core.Identity.Serial;

    /// <summary>What it has done so far. Any thread.</summary>
    public NvmeStatistics Statistics => _core.Counters.Snapshot();

    /// <summary>The controller behind the registers, for tests.</summary>
    internal NvmeCore Core => _core;

    /// <summary>Whether this server may transfer to and from the image, for tests.</summary>
    internal bool OwnsImage => _ownership.Held;

    /// <inheritdoc/>
    public void OnConnected(IDeviceHost host)
    {
        _core.Host = host;
        _connected = true;
        // A client that comes back to an enabled controller finds it where it was, if the image is still to be had.
        if (HoldsImage(_state) && _core.Ready && !_core.Fatal)
            TakeImage();
        GoOn();
    }

    /// <inheritdoc/>
    public void OnDisconnected()
    {
        StopWorkers();
        _connected = false;
        _core.Host = null;
        if (_ownership.Release() != Errno.None)
            _ownership.Abandon(); // logged; nobody is left to hear more
    }

    /// <inheritdoc/>
    public void Reset()
    {
        ResetFunction();
        // vfio.h, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: a device reset leads to RUNNING from every state.
        _session.End();
        _state = DeviceMigrationState.Running;
    }

    /// <summary>Function level reset (PCI Express Base 5.0, 6.6.2); the migration state machine is not part of the function.</summary>
    private void ResetFunction()
    {
        StopWorkers();
        _core.ResetController();
        _core.Configuration = default;
        _core.AdminQueueAttributes = 0;
        _core.AdminSubmissionBase = 0;
        _core.AdminCompletionBase = 0;
        _pci.Reset();
        ApplyInterruptControl();
        _msixTable.AsSpan().Clear();
    }

    /// <summary>Stops the threads, lets the image go and closes it. The server has stopped using the controller.</summary>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        _core.Dispose();
        _ownership.Abandon();
        _ownership.Dispose();
        _image.Dispose();
    }

    /// <summary>Lets workers execute if everything allows it, and makes them look at all that may have changed.</summary>
    private void GoOn()
    {
        if (!_connected || !Executes(_state) || !_core.Ready || _core.Fatal || !_ownership.Held)
            return;
        _core.Rouse();
        _core.Scheduler.Open();
    }

    /// <summary>Waits for the commands being executed, however long the image takes.</summary>
    private void StopWorkers()
    {
        while (!_core.Scheduler.Close(QuietReminder))
            _log.Write($"nvme: still waiting for commands on {_image.Path} to finish");
    }

    /// <summary>Takes the image for an enabled controller, which is fatal without it.</summary>
    private Errno TakeImage()
    {
        Errno errno = _ownership.Take(_options.OwnershipWait);
        if (errno != Errno.None)
            _core.Fail(errno == Errno.EBUSY ? "cannot run: the image belongs to another server" : $"cannot run: the image cannot be locked ({errno})");
        return errno;
    }

    private void ApplyInterruptControl()
    {
        _core.MsixEnabled = _pci.MsixEnabled;
        _core.PinDisabled = _pci.PinDisabled;
        _core.UpdatePin();
    }
}
