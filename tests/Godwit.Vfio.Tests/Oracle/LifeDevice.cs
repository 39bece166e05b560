using System.Globalization;

namespace Godwit.Vfio.Tests;

/// <summary>A device of a <see cref="Life"/>: a model with limits, in a slot, with the shadow and the tracker under test.</summary>
internal sealed class LifeDevice : IDisposable
{
    private LifeDevice(ModelSlot slot, ModelDevice model, DmaShadow shadow, DmaLogTracker tracker)
    {
        Slot = slot;
        Model = model;
        Shadow = shadow;
        Tracker = tracker;
    }

    public ModelSlot Slot { get; }

    public ModelDevice Model { get; }

    public DmaShadow Shadow { get; }

    public DmaLogTracker Tracker { get; }

    /// <summary>A device with limits as <paramref name="random"/> says, plugged into a slot as it is after a reset.</summary>
    public static LifeDevice Plug(World world, int slotNumber, Mutation mutation, Random random)
    {
        ModelSlot slot = world.Board.Slots[slotNumber];
        slot.Iommu.AnnouncesRuns = random.Next(2) == 0;
        ModelDeviceTraits traits = Traits(random, mutation);
        var model = new ModelDevice(traits, random);
        world.Oracle.Watch(model);
        var notices = new NoticeBoard();
        string id = slotNumber.ToString(CultureInfo.InvariantCulture);
        var shadow = new DmaShadow(id, model, why => throw new InvalidOperationException(why), world.Board.Ram, new GpaResolver(world.Board.Topology.System), notices);
        int knows = random.Next(6);
        IReadOnlyList<CoveragePlan> Plans() => knows switch
        {
            0 => [], // a vIOMMU that does not tell where its aperture ends
            1 => [CoveragePlan.Candidates(slot.Iommu.Attributes, world.Board.Topology.System.View)[1]], // RAM above the aperture is uncovered
            _ => CoveragePlan.Candidates(slot.Iommu.Attributes, world.Board.Topology.System.View),
        };
        var tracker = new OracleTracker(id, slot, model, shadow, world.Board.Ram.Dirty, notices, Plans, mutation, random.Next(4) switch { 0 => 0, 1 => 10, _ => HarvestQueue.DefaultLimit })
        {
            KnownLimits = traits.StartFailsPercent == 0 || random.Next(8) != 0 ? World.KnownLimits : null, // some are asked while they fail
            Traits = traits with { MaxReportBytes = 0, MaxMappings = 0, ReportFailsPercent = 0, StartFailsPercent = 0, FailureSticks = false, ClearsWholeWords = false, WordsFromStart = false },
        };
        shadow.UnmapObserver = tracker;
        slot.Space.AddListener(shadow);
        return new LifeDevice(slot, model, shadow, tracker);
    }

    public void AssertTheTableIsWhatIsInstalled()
    {
        int at = 0;
        IReadOnlyList<Mapping> model = Model.Mappings;
        MappingTable.Cursor cursor = Shadow.Installed.Seek(0);
        while (cursor.MoveNext())
        {
            foreach (Mapping mapping in cursor.Mappings())
            {
                if (at == model.Count || model[at] != mapping)
                    Assert.Fail($"the table has {mapping}, the device {(at < model.Count ? model[at] : null)}");
                at++;
            }
        }

        Assert.Equal(model.Count, at);
    }

    public void Dispose()
    {
        (Model.Meanwhile, Model.Reported, Model.Restarting) = (null, null, null);
        Slot.Space.RemoveListener(Shadow);
        Slot.SetPassThrough(false);
        Slot.Iommu.Forget();
    }

    /// <summary>One of the kinds of hardware that there are, or anything.</summary>
    private static ModelDeviceTraits Traits(Random random, Mutation mutation)
    {
        bool fails = mutation == Mutation.ForgetAfterLoss || random.Next(6) == 0;
        ModelDeviceTraits traits = new()
        {
            LogPageSize = 4096UL << (random.Next(4) == 0 ? 1 + (3 * random.Next(2)) : 0),
            MaxReportBytes = 8 << random.Next(0, 10),
            MaxMappings = random.Next(5) == 0 ? 40 : 65535,
            ReportFailsPercent = fails ? random.Next(1, 20) : 0,
            StartFailsPercent = random.Next(12) == 0 ? 20 : 0,
            FailureSticks = random.Next(2) == 0,
        };
        return random.Next(5) switch
        {
            0 => traits with { ClearsWholeWords = random.Next(2) == 0 }, // takes everything
            1 => traits with { MaxSpan = Span(random), MinSpan = Least(random), CombinesTo = 1 << random.Next(3), RoundsSpanUp = true, FailureSticks = true }, // mlx5
            2 => traits with { MaxSpan = Span(random), OneRegion = true, WordsFromStart = true, ClearsWholeWords = true }, // pds
            3 => traits with { MaxSpan = Span(random), MaxRanges = 1 << random.Next(3) }, // a server of one's own
            _ => traits with
            {
                ClearsWholeWords = random.Next(2) == 0,
                MaxRanges = random.Next(3) switch { 0 => 1, 1 => 3, _ => DeviceLogLimits.KernelMaxRanges },
                MaxSpan = random.Next(2) == 0 ? Span(random) : ulong.MaxValue,
                MinSpan = Least(random),
                OneRegion = random.Next(3) == 0,
                LongestRange = random.Next(6) == 0 ? 100 : ulong.MaxValue,
            },
        };
    }

    private static ulong Span(Random random) => 64UL << random.Next(1, 8);

    private static ulong Least(Random random) => random.Next(3) == 0 ? 64UL << random.Next(0, 5) : 0;
}
