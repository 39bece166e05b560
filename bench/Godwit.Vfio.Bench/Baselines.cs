namespace Godwit.Vfio.Bench;

/// <summary>The two ways that dirty-tracking wants to be compared with, written from their description.</summary>
internal sealed class Baselines(Scene scene, GuestPageTable tables)
{
    /// <summary>One call to the driver covers at most 64 GiB: 2 MiB of bitmap (Linux drivers/iommu/iommufd/iova_bitmap.c).</summary>
    private const ulong DriverWindow = 1UL << 24;

    private readonly ulong[] _bitmap = new ulong[DriverWindow / 64];

    /// <summary>Questions once more, with answers that nobody looks at: what the model device itself takes of the time.</summary>
    public void Ask(List<IovaPages> ranges)
    {
        foreach (IovaPages range in ranges)
        {
            Span<ulong> bitmap = _bitmap.AsSpan(0, (int)((range.Count + 63) / 64));
            bitmap.Clear();
            scene.Device.ReportDmaLog(range, 4096, bitmap);
        }
    }

    /// <summary>One report for each mapping, its bits marked by the mapping that it was asked for.</summary>
    public void ReportPerMapping()
    {
        ulong pages = Layouts.PagesOf(scene.Layout);
        Span<ulong> bitmap = _bitmap.AsSpan(0, (int)((pages + 63) / 64));
        for (int i = 0; i < scene.Count; i++)
        {
            bitmap.Clear();
            scene.Device.ReportDmaLog(new IovaPages(scene.IovaOf(i), pages), 4096, bitmap);
            scene.Marker.Mark(scene.RamOf(i), bitmap, pages);
        }
    }

    /// <summary>
    /// One report over the whole aperture, which the kernel cuts into windows for the driver, then a walk over the guest's tables. The bitmap of the
    /// aperture is kind to it: one window's worth that stays in the cache, where the real one has gigabytes.
    /// </summary>
    public void ReportWholeApertureAndWalk()
    {
        for (ulong first = 0; first < scene.AperturePages; first += DriverWindow)
        {
            var window = new IovaPages(first, Math.Min(DriverWindow, scene.AperturePages - first));
            Span<ulong> bitmap = _bitmap.AsSpan(0, (int)(window.Count / 64));
            bitmap.Clear();
            scene.Device.ReportDmaLog(window, 4096, bitmap);
            tables.Attribute(window, bitmap, scene.Marker);
        }
    }
}
