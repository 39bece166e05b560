using Godwit.Iommu.Intel;
using Godwit.Vfio;

namespace Godwit.Machine.Tests;

/// <summary>A machine with one NVMe device, running <c>nvme-stress</c>, with all its parts real and in this process.</summary>
internal sealed class StressRig : IDisposable
{
    private readonly List<string> _notices = [];
    private readonly NvmeServer? _second;

    public StressRig(
        string image, IommuKind iommu = IommuKind.Intel, int width = 39, int blockSize = 4096, string? secondImage = null, params string[] options)
        : this(image, new MachineConfig { Iommu = iommu, Intel = new IntelIommuOptions { AddressWidth = width } }, blockSize, secondImage, options)
    {
    }

    /// <summary>A machine of any shape.</summary>
    /// <param name="image">The disk.</param>
    /// <param name="shape">vCPUs and vIOMMU; the rest is the rig's.</param>
    /// <param name="blockSize">Of the first disk.</param>
    /// <param name="secondImage">Another disk, for a second controller.</param>
    /// <param name="options">The guest's.</param>
    public StressRig(string image, MachineConfig shape, int blockSize = 4096, string? secondImage = null, params string[] options)
    {
        Server = new NvmeServer(image, blockSize: blockSize);
        _second = secondImage is null ? null : new NvmeServer(secondImage, blockSize: 512);
        MachineConfig config = shape with
        {
            MemoryBytes = 128 << 20,
            Devices = [.. new[] { Server, _second }.OfType<NvmeServer>().Select((s, i) => new VfioDeviceOptions { Id = $"nvme{i}", Socket = s.Socket })],
            Guest = "nvme-stress",
            GuestOptions = options.Select(o => o.Split('=')).ToDictionary(o => o[0], o => o[1], StringComparer.Ordinal),
        };
        try
        {
            Machine = VirtualMachine.Build(config, TimeProvider.System);
        }
        catch
        {
            Server.Dispose();
            _second?.Dispose();
            throw;
        }

        Machine.Notice += text =>
        {
            lock (_notices)
                _notices.Add(text);
        };
    }

    public NvmeServer Server { get; }

    public VirtualMachine Machine { get; }

    public IReadOnlyList<string> Notices
    {
        get
        {
            lock (_notices)
                return [.. _notices];
        }
    }

    /// <summary>Waits until the guest says so of itself; fails at once when it has panicked.</summary>
    public GuestReport WaitFor(Func<GuestReport, bool> condition, string what)
    {
        GuestReport report = Machine.QueryGuest();
        using var never = new ManualResetEventSlim();
        long start = TimeProvider.System.GetTimestamp();
        while (!condition(report))
        {
            Assert.True(report.Panic is null, $"The guest panicked: {report.Panic}\n{Server.Log}");
            Assert.True(TimeProvider.System.GetElapsedTime(start) < Deadline.Generous, $"Waited {Deadline.Generous} for {what}: {report}\n{Server.Log}");
            never.Wait(5); // the guest has no way to signal a test; asking now and then is all there is
            report = Machine.QueryGuest();
        }

        return report;
    }

    public static long Commands(GuestReport report) => report.Reads + report.Writes + report.OtherCommands;

    public static void AssertClean(GuestReport report)
    {
        Assert.True(
            report.Mismatches == 0 && report.IommuFaults == 0 && report.Panic is null,
            $"{report.Mismatches} mismatches, {report.IommuFaults} faults, panic: {report.Panic}\n{string.Join('\n', report.MismatchDetails)}");
    }

    public void Dispose()
    {
        Machine.Dispose();
        Server.Dispose();
        _second?.Dispose();
    }
}
