using System.Diagnostics;
using System.Globalization;

namespace Godwit.Vfio.Bench;

/// <summary>A sync of the tracker, against one report for each mapping and one over the whole aperture with a walk of the guest's tables.</summary>
internal static class SyncTable
{
    private static readonly int[] PerMillion = [0, 1_000, 10_000, 1_000_000];

    /// <summary>1 GiB of page numbers.</summary>
    private const ulong MostDirtyPages = 1UL << 27;

    private static bool s_met = true;

    public static int Run(bool quick)
    {
        WriteHead();
        foreach (Layout layout in Enum.GetValues<Layout>())
        {
            WarmUp(layout, quick ? 0.3 : 2);
            foreach (int count in quick ? [10_000] : new[] { 10_000, 100_000, 1_000_000, 4_000_000 })
            {
                foreach (int bits in quick ? [39] : new[] { 39, 48, 57 })
                    Measure(layout, count, bits, quick, wholeAperture: bits <= 48);
            }
        }

        return Conclude();
    }

    /// <summary>One scene by hand, at any size, also the aperture of 57 bits as a whole.</summary>
    public static int Run(Layout layout, int count, int bits)
    {
        WriteHead();
        WarmUp(layout, 2);
        Measure(layout, count, bits, quick: false, wholeAperture: true);
        return Conclude();
    }

    private static void WriteHead()
    {
        Console.WriteLine("Processor time, so that neighbours disturb little, without what a call to a device takes, which is 5 to 50 us for each in reality. Best of several turns; calls and bytes of one sync.");
        Console.WriteLine();
        Console.WriteLine("layout    | mappings | aperture |  dirty % |    calls: godwit / each mapping / aperture | bitmap KiB: godwit / each mapping / aperture |       ms: godwit / each mapping / aperture | without the device: godwit / aperture | allocated");
        Console.WriteLine("----------|---------:|---------:|---------:|-------------------------------------------:|-----------------------------------------------:|-------------------------------------------:|-------------------------------------:|---------:");
    }

    private static int Conclude()
    {
        Console.WriteLine();
        Console.WriteLine(s_met
            ? "Goals met: 50 times fewer calls than one for each mapping (layouts of allocators), a tenth of the time of the aperture from 48 bits on, no allocation."
            : "A goal is missed; see the lines with a '!'.");
        return s_met ? 0 : 1;
    }

    private static void Measure(Layout layout, int count, int bits, bool quick, bool wholeAperture)
    {
        if (Layouts.Place(layout, count, bits, new Random(1)) is not { } iovas)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{layout,-9} | {count,8} | {bits,8} | does not fit"));
            return;
        }

        using var scene = new Scene(layout, count, bits, iovas);
        var baselines = new Baselines(scene, new GuestPageTable(scene, bits));
        foreach (int perMillion in PerMillion)
        {
            if ((ulong)count * Layouts.PagesOf(layout) * (ulong)perMillion / 1_000_000 > MostDirtyPages)
            {
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{layout,-9} | {count,8} | {bits,8} | {perMillion / 1e4,8:0.0} | not run: the model device keeps at most {MostDirtyPages} dirty pages"));
                continue;
            }

            ulong[] dirty = scene.Dirty(perMillion, new Random(2));
            Figures ours = Time(scene, dirty, quick ? 2 : 4, () => scene.Tracker.Sync(final: false));
            double ourDevice = DeviceAlone(scene, baselines, dirty, quick ? 2 : 4, () => scene.Tracker.Sync(final: false));
            Figures each = Time(scene, dirty, quick ? 1 : 2, baselines.ReportPerMapping);
            // At 57 bits this is two million windows, whatever is mapped: minutes. Its bitmap has 4 TiB.
            Figures? whole = wholeAperture ? Time(scene, dirty, 1, baselines.ReportWholeApertureAndWalk, warm: bits <= 48) : null;
            string alone = whole is null ? "not run" : (whole.Milliseconds - DeviceAlone(scene, baselines, dirty, 1, baselines.ReportWholeApertureAndWalk)).ToString("0.000", CultureInfo.InvariantCulture);
            bool fewer = layout == Layout.Uniform || ours.Calls * 50 <= each.Calls;
            bool faster = bits < 48 || whole is null || ours.Milliseconds * 10 < whole.Milliseconds;
            bool met = fewer && faster && ours.Allocated == 0;
            s_met &= met;
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{layout,-9} | {count,8} | {bits,8} | {perMillion / 1e4,8:0.0} | {ours.Calls,12} / {each.Calls,12} / {whole?.Calls ?? (1L << (bits - 36)),12} | {ours.BitmapKiB,14:0} / {each.BitmapKiB,13:0} / {whole?.BitmapKiB ?? (1UL << (bits - 25)),14:0} | {ours.Milliseconds,12:0.000} / {each.Milliseconds,12:0.000} / {whole?.Milliseconds.ToString("0.000", CultureInfo.InvariantCulture) ?? "not run",12} | {ours.Milliseconds - ourDevice,12:0.000} / {alone,12} | {ours.Allocated,8}{(met ? "" : " !")}"));
        }
    }

    /// <summary>What the model device takes of the time of <paramref name="sync"/>: a real one would take none of the processor.</summary>
    private static double DeviceAlone(Scene scene, Baselines baselines, ulong[] dirty, int turns, Action sync)
    {
        List<IovaPages> asked = scene.Device.Asked = [];
        scene.Device.Write(dirty);
        sync();
        scene.Device.Asked = null;
        return Time(scene, dirty, turns, () => baselines.Ask(asked)).Milliseconds;
    }

    /// <summary>Everything that will be measured, on little, until the runtime has compiled it for good: milliseconds of first steps would count otherwise.</summary>
    private static void WarmUp(Layout layout, double seconds)
    {
        const int Count = 2_000, Bits = 39;
        using var scene = new Scene(layout, Count, Bits, Layouts.Place(layout, Count, Bits, new Random(1))!);
        var baselines = new Baselines(scene, new GuestPageTable(scene, Bits));
        ulong[][] shares = [.. PerMillion.Select(perMillion => scene.Dirty(perMillion, new Random(2)))];
        for (long began = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(began).TotalSeconds < seconds;)
        {
            foreach (ulong[] dirty in shares)
            {
                foreach (Action sync in (Action[])[() => scene.Tracker.Sync(final: false), baselines.ReportPerMapping, baselines.ReportWholeApertureAndWalk])
                    Time(scene, dirty, 1, sync, warm: false);
            }
        }
    }

    private static Figures Time(Scene scene, ulong[] dirty, int turns, Action sync, bool warm = true)
    {
        // Once before it counts.
        scene.Device.Write(dirty);
        if (warm)
            sync();
        var best = new Figures(0, 0, double.MaxValue, 0);
        for (int turn = 0; turn < turns; turn++)
        {
            scene.Device.Write(dirty);
            Forget(scene);
            long before = GC.GetAllocatedBytesForCurrentThread();
            TimeSpan began = Environment.CpuUsage.TotalTime;
            sync();
            double time = (Environment.CpuUsage.TotalTime - began).TotalMilliseconds;
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            best = new Figures(scene.Device.Calls, scene.Device.BitmapBytes / 1024.0, Math.Min(time, best.Milliseconds), Math.Max(allocated, best.Allocated));
        }

        return best;
    }

    /// <summary>Takes the marks, so that each turn has the same to mark.</summary>
    private static void Forget(Scene scene)
    {
        var runs = new Memory.DirtyRun[Memory.DirtyBitmap.MinRuns];
        for (Memory.RamPage next = default; next.Index < scene.Ram.PageCount;)
            scene.Ram.Dirty.Drain(ref next, ulong.MaxValue, runs);
    }

    private sealed record Figures(long Calls, double BitmapKiB, double Milliseconds, long Allocated);
}
