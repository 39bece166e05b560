using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Vfio;

/// <summary>
/// Drives a device of the host's kernel through everything that a machine asks of one, and says what it does well and what not. The device is
/// reset, mapped and migrated: nobody else may use it meanwhile.
/// </summary>
public sealed class KernelExaminer
{
    /// <summary>More state than this is not carried here.</summary>
    private const int MaxState = 256 << 20;

    private readonly KernelBackend _device;
    private readonly HostPciDevice _sysfs;
    private readonly RamBlock _ram;
    private readonly List<CheckResult> _results = [];
    private readonly Action<CheckResult>? _progress;

    private KernelExaminer(KernelBackend device, HostPciDevice sysfs, RamBlock ram, Action<CheckResult>? progress)
    {
        _device = device;
        _sysfs = sysfs;
        _ram = ram;
        _progress = progress;
    }

    /// <summary>Examines the device that <paramref name="options"/> name.</summary>
    /// <param name="options">Which, and through what.</param>
    /// <param name="progress">Told each result as it comes.</param>
    /// <exception cref="VfioAttachException">It cannot be had.</exception>
    public static ExaminationReport Run(KernelDeviceOptions options, Action<CheckResult>? progress = null) =>
        Run(options, LinuxKernelCalls.Instance, new HostPci(), progress);

    internal static ExaminationReport Run(KernelDeviceOptions options, IKernelCalls calls, HostPci host, Action<CheckResult>? progress = null)
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("examination", RamBlock.SizeUnit);
        using KernelBackend device = KernelAttach.Open(options, calls, host);
        _ = HostPciAddress.TryParse(device.Address, out HostPciAddress address);
        HostPciDevice sysfs = host.Find(address) ?? throw new VfioAttachException(device.Address, "it has gone from sysfs");
        var examiner = new KernelExaminer(device, sysfs, block, progress);
        examiner.RunAll();
        return new ExaminationReport(examiner._results);
    }

    private void RunAll()
    {
        Check("info.layout", "regions and configuration space describe a PCI function", () => DeviceLayout.Read(_device));
        Check("info.identity", "configuration space says the same as the host", Identity);
        Check("irq.eventfds", "each interrupt index takes eventfds and can be disabled", Interrupts);
        Check("dma.map", "a page can be mapped and unmapped, and what is mapped is not mapped over", Map);
        Check("dma.cut", "a mapping is not cut by an unmap", Cut);
        Check("reset", "a reset is taken, and leaves the device there and running", ResetDevice);
        Check("state.arcs", "every offered migration state is reached and told", Arcs);
        Check("state.save", "in STOP_COPY there is state, and it ends", () => Require(Save().Length > 0, "there is none"));
        Check("state.pre-copy", "state can be read in PRE_COPY until there is no more for now", Precopy);
        Check("state.restore", "a saved state is taken after a reset", Restore);
        Check("state.damaged", "a state that ends early is refused", Damaged);
        Check("log.start", "the log starts once, reports nothing while nothing is written, and starts again after a stop", Log);
        Check("log.ranges", "more than 256 ranges are refused", LogRanges);
    }

    private void Check(string name, string meaning, Action body)
    {
        CheckResult result;
        try
        {
            body();
            result = new CheckResult(name, meaning, CheckOutcome.Pass, null);
        }
        catch (NotOfferedException e)
        {
            result = new CheckResult(name, meaning, CheckOutcome.NotOffered, e.Message);
        }
        catch (IOException e)
        {
            result = new CheckResult(name, meaning, CheckOutcome.Fail, e.Message);
        }

        if (result.Outcome == CheckOutcome.Fail)
            BringBack();
        _results.Add(result);
        _progress?.Invoke(result);
    }

    /// <summary>Where a check ended early is not to be the fault of the next one.</summary>
    private void BringBack()
    {
        try
        {
            if (_device.GetInfo().CanReset)
                _device.Reset();
        }
        catch (IOException)
        {
            // What cannot be reset any more fails the checks that follow, by its own words.
        }
    }

    private void Identity()
    {
        Span<byte> ids = stackalloc byte[4];
        _device.ReadRegion(PciRegion.Config, 0, ids);
        uint told = BitConverter.ToUInt32(ids);
        Require(told == (_sysfs.Vendor | ((uint)_sysfs.Device << 16)), $"configuration space says {told & 0xFFFF:x4}:{told >> 16:x4}, sysfs {_sysfs.Vendor:x4}:{_sysfs.Device:x4}");
    }

    private void Interrupts()
    {
        bool any = false;
        foreach (int index in (int[])[PciIrq.Intx, PciIrq.Msi, PciIrq.Msix])
        {
            int count = _device.GetIrqInfo(index).Count;
            if (count == 0)
                continue;
            any = true;
            var fds = new EventFd?[Math.Min(count, 4)];
            try
            {
                for (int i = 0; i < fds.Length; i++)
                    fds[i] = EventFd.Create();
                _device.SetIrqEventFds(index, fds);
                _device.DisableIrqs(index);
            }
            finally
            {
                foreach (EventFd? fd in fds)
                    fd?.Dispose();
            }
        }

        if (!any)
            throw new NotOfferedException("the device has no interrupts");
    }

    private void Map()
    {
        var page = new IovaPages(16, 4);
        _device.QueueMap(page, _ram, 0, writable: true);
        _device.QueueUnmap(page);
        Require(Failures() == "", $"mapping and unmapping: {Failures()}");
        _device.QueueUnmap(page);
        Require(Failures() == "unmap ENOENT", "an unmap of nothing is not told apart");
    }

    private void Cut()
    {
        var whole = new IovaPages(16, 4);
        _device.QueueMap(whole, _ram, 0, writable: true);
        Require(Failures() == "", "a map is refused");
        _device.QueueUnmap(new IovaPages(17, 1));
        Require(Failures() != "", "an unmap of the middle of a mapping is taken");
        _device.QueueUnmap(whole);
        Require(Failures() == "", "the whole mapping cannot be unmapped afterwards");
    }

    private void ResetDevice()
    {
        if (!_device.GetInfo().CanReset)
            throw new NotOfferedException("the device cannot be reset without touching others");
        // What the kernel saves around a reset (pci_try_reset_function) comes back: the command register tells nothing of it.
        _device.Reset();
        Identity();
        if (_device.GetMigrationSupport() != MigrationSupport.None)
            Require(_device.GetMigrationState() == Running, $"it is in {_device.GetMigrationState()}");
    }

    private void Arcs()
    {
        MigrationSupport support = Migration();
        bool p2p = support.HasFlag(MigrationSupport.P2P), precopy = support.HasFlag(MigrationSupport.PreCopy);
        List<DeviceMigrationState> walk = [Stop, StopCopy, Stop, Resuming, Stop, Running];
        if (p2p)
            walk.AddRange([RunningP2P, Stop, RunningP2P, Running]);
        if (precopy)
            walk.AddRange([PreCopy, Running, PreCopy, StopCopy, Stop, Running]);
        if (p2p && precopy)
            walk.AddRange([PreCopy, PreCopyP2P, StopCopy, Stop, Running]);
        byte[]? own = null;
        foreach (DeviceMigrationState state in walk)
        {
            _device.SetMigrationState(state);
            Require(_device.GetMigrationState() == state, $"after going to {state} it says that it is in {_device.GetMigrationState()}");
            // A device must refuse to leave RESUMING without all of a state (vfio.h, vfio_device_mig_state).
            if (state == StopCopy)
                own ??= ReadAll();
            else if (state == Resuming)
                _device.WriteMigrationData(own);
        }
    }

    private void Precopy()
    {
        if (!Migration().HasFlag(MigrationSupport.PreCopy))
            throw new NotOfferedException("the device offers no PRE_COPY");
        _device.SetMigrationState(PreCopy);
        ReadAll();
        Require(_device.GetMigrationState() == PreCopy, "reading changed the state");
        _device.SetMigrationState(Running);
    }

    private void Restore()
    {
        byte[] state = Save();
        BeginLoad();
        _device.WriteMigrationData(state);
        _device.SetMigrationState(Stop);
        _device.SetMigrationState(Running);
    }

    private void Damaged()
    {
        Migration();
        // What has failed to restore leaves RESUMING by a reset only (vfio.h, vfio_device_mig_state).
        if (!_device.GetInfo().CanReset)
            throw new NotOfferedException("the device could not be brought back afterwards: it cannot be reset without touching others");
        byte[] state = Save();
        if (state.Length < 2)
            throw new NotOfferedException($"its state of {state.Length} bytes cannot end early");
        bool refused;
        BeginLoad();
        try
        {
            // At the first byte that cannot be, or when the rest does not come.
            refused = Refused(() =>
            {
                _device.WriteMigrationData(state.AsSpan(0, state.Length / 2));
                _device.SetMigrationState(Stop);
            });
        }
        finally
        {
            _device.Reset();
        }

        Require(refused, "half of a state is taken for a whole one");
        Require(_device.GetMigrationState() == Running, $"after a reset it is in {_device.GetMigrationState()}");
    }

    private void Log()
    {
        RequireLog();
        IovaPages range = StartLog();
        try
        {
            Require(Refused(() => _device.StartDmaLogging(RamPage.Size, [range])), "a second start is taken");
            var bitmap = new ulong[(range.Count + 63) / 64];
            _device.ReportDmaLog(range, RamPage.Size, bitmap);
            Require(bitmap.All(word => word == 0), "pages are reported that nobody wrote");
        }
        finally
        {
            _device.StopDmaLogging();
        }

        // vfio.h says nothing of a stop without a start, and drivers differ. Whichever way, it must do no harm.
        _ = Refused(_device.StopDmaLogging);
        StartLog();
        _device.StopDmaLogging();
    }

    /// <summary>Over as much as it takes of 16 MiB: a log may have a limit to its span, which a driver refuses with an error of its choice.</summary>
    private IovaPages StartLog()
    {
        for (ulong pages = 1 << 12; ; pages >>= 6)
        {
            var range = new IovaPages(0, pages);
            try
            {
                _device.StartDmaLogging(RamPage.Size, [range]);
                return range;
            }
            catch (DeviceRefusedException) when (pages > 1)
            {
                // Less, then.
            }
        }
    }

    private void LogRanges()
    {
        RequireLog();
        var ranges = new IovaPages[DeviceLogLimits.KernelMaxRanges + 1];
        for (int i = 0; i < ranges.Length; i++)
            ranges[i] = new IovaPages((ulong)i * 2, 1);
        bool refused = Refused(() => _device.StartDmaLogging(RamPage.Size, ranges));
        if (!refused)
            _device.StopDmaLogging();
        Require(refused, "they are taken");
    }

    private void RequireLog()
    {
        if (!_device.SupportsDmaLogging())
            throw new NotOfferedException("the device has no log of its DMA");
    }

    private MigrationSupport Migration() => _device.GetMigrationSupport() is var support && support.HasFlag(MigrationSupport.StopCopy)
        ? support
        : throw new NotOfferedException("the device offers no migration");

    private byte[] Save()
    {
        Migration();
        _device.SetMigrationState(StopCopy);
        byte[] state = ReadAll();
        _device.SetMigrationState(Stop);
        _device.SetMigrationState(Running);
        return state;
    }

    private void BeginLoad()
    {
        if (_device.GetInfo().CanReset)
            _device.Reset();
        _device.SetMigrationState(Resuming);
    }

    private byte[] ReadAll()
    {
        using var state = new MemoryStream();
        var chunk = new byte[64 << 10];
        for (int count; (count = _device.ReadMigrationData(chunk)) > 0;)
        {
            Require(state.Length + count <= MaxState, $"there are more than {MaxState} bytes");
            state.Write(chunk, 0, count);
        }

        return state.ToArray();
    }

    /// <summary>What was refused since the last call; there is one operation at a time here that may be.</summary>
    private string Failures()
    {
        List<DmaFailure> failures = [];
        _device.Flush(failures);
        return failures.Count == 0 ? "" : $"unmap {failures[0].Errno}";
    }

    private static bool Refused(Action action)
    {
        try
        {
            action();
            return false;
        }
        catch (DeviceRefusedException)
        {
            return true;
        }
    }

    private static void Require(bool right, string why)
    {
        if (!right)
            throw new IOException(why);
    }

    /// <summary>There is nothing to look at.</summary>
    private sealed class NotOfferedException(string why) : Exception(why);
}
