namespace Godwit.Vfio.Tests;

/// <summary>Which source a device gets, for everything that it can have and everything that can be asked for.</summary>
public sealed class DirtySourceChoiceTests
{
    [Theory]
    [InlineData(DirtyTrackingMode.Auto, true, false, DirtySourceKind.DeviceLog, null)]
    [InlineData(DirtyTrackingMode.Auto, true, true, DirtySourceKind.DeviceLog, null)]
    [InlineData(DirtyTrackingMode.Auto, false, true, DirtySourceKind.HostIommu, null)]
    [InlineData(DirtyTrackingMode.Auto, false, false, DirtySourceKind.None, typeof(NoDirtySourceBlocker))]
    [InlineData(DirtyTrackingMode.Device, true, true, DirtySourceKind.DeviceLog, null)]
    [InlineData(DirtyTrackingMode.Device, false, true, DirtySourceKind.None, typeof(DeviceWithoutDirtyLoggingBlocker))]
    [InlineData(DirtyTrackingMode.Iommu, true, true, DirtySourceKind.HostIommu, null)]
    [InlineData(DirtyTrackingMode.Iommu, true, false, DirtySourceKind.None, typeof(NoHostIommuTrackingBlocker))]
    [InlineData(DirtyTrackingMode.Pessimistic, true, true, DirtySourceKind.Pessimistic, null)]
    [InlineData(DirtyTrackingMode.Pessimistic, false, false, DirtySourceKind.Pessimistic, null)]
    [InlineData(DirtyTrackingMode.Off, true, true, DirtySourceKind.None, typeof(DirtyTrackingOffBlocker))]
    public void BestSourceUnlessTheUserSaysOtherwise(DirtyTrackingMode wanted, bool logs, bool host, DirtySourceKind kind, Type? missing)
    {
        DirtySourceChoice choice = DirtySourceChoice.Of("dev0", wanted, logs, host ? Host() : null, nested: false);
        Assert.Equal((kind, missing), (choice.Kind, choice.Missing?.GetType()));
    }

    [Fact]
    public void OneThatCallsEverythingDirtyIsForThoseWhoAskForIt()
    {
        HostIommuTraits blind = Host() with { TracksWrites = false };
        Assert.IsType<NoDirtySourceBlocker>(DirtySourceChoice.Of("dev0", DirtyTrackingMode.Auto, logsDma: false, blind, nested: false).Missing);
        Assert.Equal(DirtySourceKind.HostIommu, DirtySourceChoice.Of("dev0", DirtyTrackingMode.Iommu, logsDma: false, blind, nested: false).Kind);
    }

    [Fact]
    public void UnderNestedTranslationTheHostsBitsAreBetterThanALogOfAddressesThatNobodyKnows()
    {
        Assert.Equal(DirtySourceKind.HostIommu, DirtySourceChoice.Of("dev0", DirtyTrackingMode.Auto, logsDma: true, Host(), nested: true).Kind);
        Assert.Equal(DirtySourceKind.DeviceLog, DirtySourceChoice.Of("dev0", DirtyTrackingMode.Auto, logsDma: true, null, nested: true).Kind); // and a blocker
        Assert.Equal(DirtySourceKind.DeviceLog, DirtySourceChoice.Of("dev0", DirtyTrackingMode.Device, logsDma: true, Host(), nested: true).Kind);
    }

    private static HostIommuTraits Host() => new() { Shape = HostIommuShape.UnmapForgets };
}
