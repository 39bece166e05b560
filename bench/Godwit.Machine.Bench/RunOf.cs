using System.Diagnostics;
using Godwit.Vfio;

namespace Godwit.Machine.Bench;

/// <summary>Starts device and machine for a case, lets it warm up, and prints what it did in the time.</summary>
internal static class RunOf
{
#if DEBUG
    public const string BuildKind = "debug";
#else
    public const string BuildKind = "release";
#endif

    public static void Measure(Case one, double seconds)
    {
        string directory = Directory.CreateTempSubdirectory("godwit-bench-").FullName;
        try
        {
            using Process device = StartDevice(Path.Combine(directory, "disk.img"), Path.Combine(directory, "nvme.sock"));
            try
            {
                Measure(one, seconds, Path.Combine(directory, "nvme.sock"));
            }
            finally
            {
                device.StandardInput.Close();
                device.WaitForExit();
            }
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static void Measure(Case one, double seconds, string socket)
    {
        using VirtualMachine machine = VirtualMachine.Build(
            new MachineConfig
            {
                MemoryBytes = 512 << 20,
                Iommu = one.Iommu,
                Devices = [new VfioDeviceOptions { Id = "nvme0", Socket = socket }],
                Guest = "nvme-stress",
                GuestOptions = one.GuestOptions,
            },
            TimeProvider.System);
        machine.Start();
        using var never = new ManualResetEventSlim();
        never.Wait(TimeSpan.FromSeconds(2)); // compile, and write what the reads will find
        (GuestReport Guest, long Host, long Blocks) before = Look(machine);
        long start = Stopwatch.GetTimestamp();
        never.Wait(TimeSpan.FromSeconds(seconds));
        (GuestReport Guest, long Host, long Blocks) after = Look(machine);
        double time = Stopwatch.GetElapsedTime(start).TotalSeconds;

        double Rate(Func<GuestReport, long> of) => (of(after.Guest) - of(before.Guest)) / time;
        Console.WriteLine(
            $"{one.Name,-33} | {Rate(r => r.Reads + r.Writes + r.OtherCommands),8:0} | {Rate(r => r.BlocksVerified) * 4 / 1024,7:0} "
            + $"| {Rate(r => r.Maps + r.Unmaps),20:0} | {(after.Host - before.Host) / time,19:0} | {Rate(r => r.Interrupts),12:0} | {after.Guest.Mismatches,9}"
            + (after.Guest.Panic is { } panic ? $" PANIC: {panic}" : ""));
    }

    private static (GuestReport Guest, long Host, long Blocks) Look(VirtualMachine machine)
    {
        GuestReport report = machine.QueryGuest();
        long host = machine.IommuChurn is { } churn ? churn.Mapped + churn.Unmapped : 0;
        return (report, host, report.BlocksVerified);
    }

    private static Process StartDevice(string image, string socket)
    {
        var start = new ProcessStartInfo(Environment.ProcessPath!, ["device", image, socket])
        {
            UseShellExecute = false,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        Process process = Process.Start(start)!;
        string? line = process.StandardOutput.ReadLine();
        return line == "ready" ? process : throw new InvalidOperationException($"The device did not start: {line}");
    }
}
