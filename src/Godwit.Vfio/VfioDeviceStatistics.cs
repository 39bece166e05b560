namespace Godwit.Vfio;

/// <summary>Counters of one device since it was attached.</summary>
/// <param name="MappingsLive">DMA mappings installed in the device now.</param>
/// <param name="Mapped">Mappings installed.</param>
/// <param name="Unmapped">Mappings removed.</param>
/// <param name="LogReports">Reports asked of the device's DMA log.</param>
/// <param name="PagesReported">Dirty pages in those reports.</param>
/// <param name="UnmapHarvests">Times that ranges were brought to the migration bitmap because they had been unmapped.</param>
/// <param name="Interrupts">Interrupts taken from the device.</param>
/// <param name="NotInstalled">Guest mappings that are not in the device now: their target is no RAM, or the device refused them.</param>
public readonly record struct VfioDeviceStatistics(
    long MappingsLive, long Mapped, long Unmapped, long LogReports, long PagesReported, long UnmapHarvests, long Interrupts, long NotInstalled = 0);
