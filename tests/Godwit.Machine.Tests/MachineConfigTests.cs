using Godwit.Iommu.Intel;
using Godwit.Vfio;

namespace Godwit.Machine.Tests;

public class MachineConfigTests
{
    public static TheoryData<string, MachineConfig, string[]> Bad()
    {
        var good = new MachineConfig();
        MachineConfig Stress(params (string Key, string Value)[] options) =>
            good with { Guest = "nvme-stress", GuestOptions = options.ToDictionary(o => o.Key, o => o.Value, StringComparer.Ordinal) };
        return new TheoryData<string, MachineConfig, string[]>
        {
            { "odd memory", good with { MemoryBytes = (1UL << 30) + 4096 }, ["1073745920", "2 MiB"] },
            { "little memory", good with { MemoryBytes = 62UL << 20 }, ["65011712", "64 MiB", "1 TiB"] },
            { "much memory", good with { MemoryBytes = (1UL << 40) + (2UL << 20) }, ["1 TiB"] },
            { "memory beyond the IOMMU", good with { MemoryBytes = 1UL << 40 }, ["39 bits", "aw-bits 48"] },
            { "address width", good with { Intel = new IntelIommuOptions { AddressWidth = 40 } }, ["aw-bits 40", "39, 48 or 57"] },
            { "IOMMU kind", good with { Iommu = (IommuKind)7 }, ["7", "none and intel"] },
            { "name", good with { Name = new string('x', 64) }, ["64", "63"] },
            { "unknown guest", good with { Guest = "linux" }, ["'linux'", "idle", "nvme-stress"] },
            { "option of a guest without", good with { GuestOptions = new Dictionary<string, string> { ["seed"] = "1" } }, ["'seed'", "takes none"] },
            { "unknown option", Stress(("depth", "1")), ["'depth'", "queue-depth"] },
            { "no number", Stress(("queue-depth", "many")), ["queue-depth", "'many'", "number"] },
            { "negative", Stress(("queue-depth", "-1")), ["queue-depth", "'-1'"] },
            { "too deep", Stress(("queue-depth", "1024")), ["queue-depth", "1024", "1 to 1023"] },
            { "odd size", Stress(("io-size", "5000")), ["io-size", "5000", "4K"] },
            { "no size", Stress(("io-size", "4X")), ["io-size", "4X", "64M"] },
            { "overflowing size", Stress(("region", "9999999999999G")), ["region"] },
            { "percent", Stress(("read-percent", "101")), ["read-percent", "101", "0 to 100"] },
            { "word", Stress(("map", "sloppy")), ["map", "'sloppy'", "strict, lazy"] },
            { "working set", Stress(("working-set", "2G")), ["working-set", "2048 MiB", "more memory"] },
            { "tables", Stress(("region", "16G"), ("queue-depth", "1023"), ("io-size", "1M")) with { MemoryBytes = 64 << 20 }, ["below 4 GiB"] },
            { "no vCPU", good with { Vcpus = 0 }, ["0 vCPUs", "1 to 1024"] },
            { "too many vCPUs", good with { Vcpus = 1025, Intel = Extended }, ["1025 vCPUs", "1 to 1024"] },
            { "vCPUs without an IOMMU", good with { Vcpus = 256, Iommu = IommuKind.None, Intel = Extended }, ["256 vCPUs", "intremap=on,eim=on", "255"] },
            { "vCPUs without EIM", good with { Vcpus = 300, Intel = new IntelIommuOptions { InterruptRemapping = true } }, ["300 vCPUs", "eim=on", "255"] },
            { "no such vCPU to interrupt", Stress(("irq-cpu", "4")) with { Vcpus = 4 }, ["irq-cpu is 4", "4 vCPUs"] },
            { "first-stage tables in legacy mode", Stress(("tables", "first")), ["tables is first", "scalable-mode=on"] },
            { "first-stage tables that are not offered", Stress(("tables", "first")) with { Intel = new IntelIommuOptions { ScalableMode = true, FirstStage = false } }, ["tables is first", "first-stage=off"] },
            { "passthrough without caching mode", good with { Intel = new IntelIommuOptions { CachingMode = false }, Devices = [Device("a")] }, ["caching-mode=off", "'a'"] },
            { "two devices of one name", good with { Devices = [Device("a"), Device("a")] }, ["'a'", "twice"] },
            { "no socket", good with { Devices = [Device("a") with { Socket = "" }] }, ["'a'", "socket"] },
            { "too many devices", good with { Devices = [.. Enumerable.Range(0, 30).Select(i => Device($"d{i}"))] }, ["30", "29"] },
        };
    }

    private static IntelIommuOptions Extended => new() { InterruptRemapping = true, ExtendedInterruptMode = true };

    [Theory]
    [MemberData(nameof(Bad))]
    public void What_cannot_be_is_refused_by_name_value_and_limit(string what, MachineConfig config, string[] texts)
    {
        var refusal = Assert.Throws<ArgumentException>(() => VirtualMachine.Build(config, TimeProvider.System));
        Assert.All(texts, text => Assert.True(refusal.Message.Contains(text, StringComparison.Ordinal), $"{what}: '{text}' is not in '{refusal.Message}'"));
    }

    [Theory]
    [InlineData("64M", 64L << 20)]
    [InlineData("64m", 64L << 20)]
    [InlineData("1G", 1L << 30)]
    [InlineData("2048K", 2L << 20)]
    [InlineData("4194304", 4L << 20)]
    public void Sizes_take_suffixes(string text, long bytes) =>
        Assert.Equal(bytes, Godwit.Machine.Guests.Stress.StressOptions.Definitions.Single(o => o.Name == "region").Parse(text));

    [Fact]
    public void Every_program_is_listed_with_options_whose_defaults_it_takes()
    {
        Assert.Contains(GuestPrograms.All, g => g.Name == "idle");
        foreach (GuestProgramInfo program in GuestPrograms.All)
        {
            var defaults = program.Options.ToDictionary(o => o.Name, o => o.Default, StringComparer.Ordinal);
            Assert.Equal(program.Options.Count, GuestPrograms.Resolve(program.Name, defaults).Count);
            Assert.All(program.Options, o => Assert.NotEmpty(o.Description));
        }
    }

    private static VfioDeviceOptions Device(string id) => new() { Id = id, Socket = "/nowhere.sock" };
}
