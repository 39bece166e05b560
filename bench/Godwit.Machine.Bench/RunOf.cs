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
        (GuestReport Guest, long Host, double Cpu) before = Look(machine);
        long start = Stopwatch.GetTimestamp();
        never.Wait(TimeSpan.FromSeconds(seconds));
        (GuestReport Guest, long Host, double Cpu) after = Look(machine);
        double time = Stopwatch.GetElapsedTime(start).TotalSeconds;

        double Rate(Func<GuestReport, long> of) => (of(after.Guest) - of(before.Guest)) / time;
        Console.WriteLine(
            $"{one.Name,-33} | {Rate(r => r.Reads + r.Writes + r.OtherCommands),8:0} | {Rate(r => r.BlocksVerified) * 4 / 1024,7:0} "
            + $"| {Rate(r => r.Maps + r.Unmaps),20:0} | {(after.Host - before.Host) / time,19:0} | {Rate(r => r.Interrupts),12:0} "
            + $"| {(after.Cpu - before.Cpu) / time * 100,6:0} % | {after.Guest.Mismatches,9}"
            + (after.Guest.Panic is { } panic ? $" PANIC: {panic}" : ""));
    }

    private static (GuestReport Guest, long Host, double Cpu) Look(VirtualMachine machine)
    {
        GuestReport report = machine.QueryGuest();
        long host = machine.IommuChurn is { } churn ? churn.Mapped + churn.Unmapped : 0;
        return (report, host, VcpuSeconds());
    }

    /// <summary>
    /// CPU time of the vCPU's thread (proc(5), /proc/PID/task/TID/stat, fields 14 and 15 in ticks of 10 ms): what the guest and its exits
    /// cost, however busy the host is.
    /// </summary>
    private static double VcpuSeconds()
    {
        foreach (string task in Directory.EnumerateDirectories("/proc/self/task"))
        {
            string stat = File.ReadAllText(Path.Combine(task, "stat"));
            if (!stat.Contains("(vcpu0)", StringComparison.Ordinal))
                continue;
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return (long.Parse(fields[11]) + long.Parse(fields[12])) / 100.0;
        }

        return 0;
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
