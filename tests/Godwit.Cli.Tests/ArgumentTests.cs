using Godwit.Iommu.Intel;
using Godwit.Vfio;

namespace Godwit.Cli.Tests;

public sealed class ArgumentTests
{
    [Theory]
    [InlineData("0", 0)]
    [InlineData("4096", 4096)]
    [InlineData("64K", 64L << 10)]
    [InlineData("512m", 512L << 20)]
    [InlineData("1G", 1L << 30)]
    [InlineData("2T", 2L << 40)]
    public void Sizes_are_read(string text, long bytes)
    {
        Assert.True(ByteSize.TryParse(text, out ulong read));
        Assert.Equal((ulong)bytes, read);
        Assert.True(ByteSize.TryParse(ByteSize.Exact(read), out ulong again));
        Assert.Equal(read, again);
    }

    [Fact]
    public void An_IOMMU_has_the_properties_that_were_given_and_defaults_for_the_rest()
    {
        IommuArgument read = IommuArgument.Parse(
            "intel,aw-bits=57,caching-mode=off,intremap=on,eim=on,pt=off,device-iotlb=on,scalable-mode=on,first-stage=off,snoop-control=on");
        Assert.Equal(
            new IntelIommuOptions
            {
                AddressWidth = 57,
                CachingMode = false,
                InterruptRemapping = true,
                ExtendedInterruptMode = true,
                PassThrough = false,
                DeviceIotlb = true,
                ScalableMode = true,
                FirstStage = false,
                SnoopControl = true,
            },
            read.Intel);
        Assert.Equal(read.Intel, IommuArgument.Parse(read.ToString()).Intel);
        Assert.Equal(new IntelIommuOptions(), IommuArgument.Parse("intel").Intel);
        Assert.Equal(new IntelIommuOptions { DmaTranslation = false, InterruptRemapping = true }, IommuArgument.Parse("intel,dma-translation=off,intremap=on").Intel);
        Assert.Equal("none", IommuArgument.Parse("none").ToString());
        Assert.Equal("intel,aw-bits=48", IommuArgument.Default.With("aw-bits", "48").ToString());
    }

    [Fact]
    public void The_help_lists_every_property_of_the_unit()
    {
        string[] lines = IommuArgument.Page().Split('\n');
        Assert.Equal(typeof(IntelIommuOptions).GetProperties().Count(property => property.CanWrite), lines.Length);
        Assert.Contains(lines, line => line.TrimStart().StartsWith("aw-bits=39|48|57 ", StringComparison.Ordinal) && line.EndsWith("[default: 39]", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("")]
    [InlineData("G")]
    [InlineData("-1")]
    [InlineData("1.5G")]
    [InlineData("1 G")]
    [InlineData("1GB")]
    [InlineData("0x10")]
    [InlineData("18446744073709551616")]
    [InlineData("16777216T")]
    [InlineData("99999999999999999999K")]
    public void What_is_no_size_is_refused(string text) => Assert.False(ByteSize.TryParse(text, out _));

    [Fact]
    public void The_largest_size_of_each_unit_fits_and_the_next_does_not()
    {
        for (int shift = 10; shift <= 40; shift += 10)
        {
            char unit = "KMGT"[(shift / 10) - 1];
            ulong most = ulong.MaxValue >> shift;
            Assert.True(ByteSize.TryParse($"{most}{unit}", out ulong bytes));
            Assert.Equal(most << shift, bytes);
            Assert.False(ByteSize.TryParse($"{most + 1}{unit}", out _));
        }
    }

    [Theory]
    [InlineData("300", 300)]
    [InlineData("300ms", 300)]
    [InlineData("1.5s", 1500)]
    [InlineData("2m", 120_000)]
    public void Times_are_read(string text, double milliseconds)
    {
        Assert.True(Duration.TryParse(text, TimeSpan.FromMilliseconds(1), out TimeSpan time));
        Assert.Equal(TimeSpan.FromMilliseconds(milliseconds), time);
        Assert.True(Duration.TryParse(Duration.Exact(time), TimeSpan.Zero, out TimeSpan again));
        Assert.Equal(time, again);
    }

    [Theory]
    [InlineData("")]
    [InlineData("s")]
    [InlineData("-1s")]
    [InlineData("1h")]
    [InlineData("1e3")]
    [InlineData("9999999999")]
    [InlineData("1.2.3")]
    public void What_is_no_time_is_refused(string text) => Assert.False(Duration.TryParse(text, TimeSpan.FromSeconds(1), out _));

    [Fact]
    public void A_device_has_a_socket_an_id_and_may_be_kept_from_migrating()
    {
        VfioDeviceOptions all = DeviceArgument.Parse("vfio-user,socket=/tmp/a,,b.sock,id=nvme0,enable-migration=off", 3);
        Assert.Equal("/tmp/a,b.sock", all.Socket);
        Assert.Equal("nvme0", all.Id);
        Assert.Equal(EnableMigration.Off, all.EnableMigration);
        Assert.False(all.MapBars);
        Assert.True(DeviceArgument.Parse("vfio-user,socket=x,map-bars=on", 0).MapBars);
        Assert.True(DeviceArgument.Parse("vfio,host=0000:3b:00.2,map-bars=on", 0).MapBars);
        Assert.Equal(TimeSpan.FromMilliseconds(1500), DeviceArgument.Parse("vfio-user,socket=x,reply-timeout=1500ms", 0).ReplyTimeout);
        VfioDeviceOptions least = DeviceArgument.Parse("vfio-user,socket=x", 3);
        Assert.Equal("vfio3", least.Id);
        Assert.Equal(EnableMigration.Auto, least.EnableMigration);
    }

    [Fact]
    public void A_device_of_the_kernel_has_an_address_a_path_or_a_descriptor()
    {
        VfioDeviceOptions byAddress = DeviceArgument.Parse("vfio,host=0000:3b:00.2,id=vf0,host-iommu=type1,dirty-tracking=iommu", 3);
        Assert.Equal(new KernelDeviceOptions { Host = "0000:3b:00.2", Iommu = HostIommuKind.Type1 }, byAddress.Kernel);
        Assert.Equal(("vf0", DirtyTrackingMode.Iommu, null), (byAddress.Id, byAddress.DirtyTracking, byAddress.Socket));
        Assert.Equal("/sys/bus/pci/devices/0000:3b:00.2", DeviceArgument.Parse("vfio,host=/sys/bus/pci/devices/0000:3b:00.2", 0).Kernel!.Host);
        Assert.Equal(new KernelDeviceOptions { Descriptor = 12 }, DeviceArgument.Parse("vfio,fd=12", 0).Kernel);
    }

    [Theory]
    [InlineData("vfio", "one of host=ADDRESS and fd=N")]
    [InlineData("vfio,host=3b:00.2,fd=5", "one of host=ADDRESS and fd=N")]
    [InlineData("vfio,host=3b:00.8", "not '3b:00.8'")]
    [InlineData("vfio,fd=2", "above 2, not '2'")]
    [InlineData("vfio,fd=-1", "above 2, not '-1'")]
    [InlineData("vfio,host=3b:00.2,host-iommu=smmu", "not 'smmu'")]
    [InlineData("vfio,socket=a", "'socket' is not a setting of vfio")]
    [InlineData("vfio-user,host=3b:00.2", "'host' is not a setting of vfio-user")]
    [InlineData("vfio-user", "needs socket=PATH")]
    [InlineData("vfio-user,socket=", "needs socket=PATH")]
    [InlineData("virtio,socket=a", "'virtio' is not known")]
    [InlineData("vfio-user,socket=a,speed=9", "'speed' is not a setting")]
    [InlineData("vfio-user,socket=a,socket=b", "'socket' is given twice")]
    [InlineData("vfio-user,socket=a,enable-migration=maybe", "auto, off or force, not 'maybe'")]
    [InlineData("vfio-user,socket=a,map-bars=yes", "map-bars must be on or off, not 'yes'")]
    [InlineData("vfio-user,socket=a,dirty-tracking=guess", "auto, device, iommu, pessimistic or off, not 'guess'")]
    [InlineData("vfio-user,socket=a,reply-timeout=0", "reply-timeout '0'")]
    [InlineData("vfio-user,socket=a,reply-timeout=2h", "reply-timeout '2h'")]
    [InlineData("vfio-user,socket=a,id=", "id ''")]
    [InlineData("vfio-user,socket=a,id=a/b", "id 'a/b'")]
    [InlineData("vfio-user,socket", "'socket' in")]
    [InlineData("socket=a", "must begin with a name")]
    [InlineData("", "must begin with a name")]
    public void What_is_wrong_with_a_device_is_named(string text, string named) =>
        Assert.Contains(named, Assert.Throws<FormatException>(() => DeviceArgument.Parse(text, 0)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("plain")]
    [InlineData("a,b,,c,")]
    public void A_value_with_commas_comes_back_as_it_went(string value) =>
        Assert.Equal(value, KeyValueList.Parse($"kind,key={KeyValueList.Escape(value)}").Settings["key"]);
}
