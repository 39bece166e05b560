using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Godwit.Iommu.Intel;
using Godwit.Machine.Acpi;
using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Tests;

/// <summary>The firmware's tables: as a guest finds them in memory, and as ACPICA's compiler reads them.</summary>
public sealed class AcpiTests : IDisposable
{
    private readonly RamFixture _ram = new();
    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-acpi-").FullName;

    public void Dispose()
    {
        _ram.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Theory]
    [InlineData(1, true)]
    [InlineData(255, true)]
    [InlineData(300, true)]
    [InlineData(1024, true)]
    [InlineData(2, false)]
    public void A_guest_finds_all_that_is_there(int cpus, bool iommu)
    {
        Place(Shape(cpus, new() { InterruptRemapping = true, ExtendedInterruptMode = true }) with { Iommu = iommu ? IommuKind.Intel : IommuKind.None });
        AcpiTables found = AcpiTables.Read(_ram.Bus);
        var expected = new AcpiTables(
            BoardLayout.EcamBase, cpus, iommu ? IntelIommu.RegisterBase : null, BoardLayout.IoApicBase, (ushort)(iommu ? 0xFF00 : 0),
            PowerInterrupt: 9, BoardLayout.PowerBase, BoardLayout.PowerBase + 4);
        Assert.Equal(expected, found);
    }

    [Fact]
    public void A_flipped_bit_anywhere_is_noticed_and_none_makes_the_guest_anything_but_panic()
    {
        int size = Place(Shape(3, new()));
        AcpiTables whole = AcpiTables.Read(_ram.Bus);
        for (int bit = 0; bit < size * 8; bit++)
        {
            Gpa at = BoardLayout.AcpiBase + (ulong)(bit / 8);
            byte old = _ram.Bus.Load<byte>(at);
            _ram.Bus.Store(at, (byte)(old ^ (1 << (bit % 8))));
            try
            {
                Assert.Equal(whole, AcpiTables.Read(_ram.Bus)); // padding between tables
            }
            catch (GuestPanicException)
            {
                // the checksum, or what it names is not there
            }

            _ram.Bus.Store(at, old);
        }
    }

    [Theory]
    [InlineData(true, true, true, DmarFlags.InterruptRemapping | DmarFlags.DmaOptIn)]
    [InlineData(true, false, true, DmarFlags.InterruptRemapping | DmarFlags.X2ApicOptOut | DmarFlags.DmaOptIn)]
    [InlineData(true, false, false, DmarFlags.InterruptRemapping | DmarFlags.X2ApicOptOut)]
    [InlineData(false, false, true, DmarFlags.DmaOptIn)]
    public void The_flags_say_what_the_unit_can_do(bool remapping, bool extended, bool translation, object flags)
    {
        var options = new IntelIommuOptions { InterruptRemapping = remapping, ExtendedInterruptMode = extended, DmaTranslation = translation };
        Assert.Equal(flags, DmarTable.FlagsFor(options));
        byte[] table = DmarTable.Build(options, IntelIommu.RegisterBase, [], all: true);
        Assert.Equal(38, table[36]); // 39 bits, minus 1
        Assert.Equal((byte)(DmarFlags)flags, table[37]);
        Assert.Equal(IntelIommu.RegisterBase.Value, BinaryPrimitives.ReadUInt64LittleEndian(table.AsSpan(48 + 8)));
    }

    [Fact]
    public void Scopes_name_functions_by_their_way_from_the_root_and_leave_out_what_bypasses()
    {
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        PciBus bypassing = host.AddRootBus(0x80, bypassIommu: true);
        var unit = new IntelIommu(_ram.Topology, new IntelIommuOptions());
        var port = new PciBridge("port", PciBridgeKind.RootPort);
        host.RootBus.SetIommu(unit);
        bypassing.SetIommu(unit);
        host.RootBus.Attach(port, new DevFn(4, 1));
        port.Secondary.Attach(new TestFunction("below"), new DevFn(0, 0));
        host.RootBus.Attach(new TestFunction("plain"), new DevFn(5, 0));
        bypassing.Attach(new TestFunction("outside"), new DevFn(1, 0));

        Assert.Equal(
            [(ScopeType.Endpoint, "00.0"), (ScopeType.SubHierarchy, "04.1"), (ScopeType.Endpoint, "05.0")],
            DeviceScope.Under(host).Select(scope => (scope.Type, string.Join('/', scope.Path))));
    }

    [Fact]
    public void A_unit_of_one_bridge_has_scopes_with_the_way_through_it()
    {
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        var port = new PciBridge("port", PciBridgeKind.RootPort);
        host.RootBus.Attach(port, new DevFn(6, 0));
        port.Secondary.SetIommu(new IntelIommu(_ram.Topology, new IntelIommuOptions()));
        port.Secondary.Attach(new TestFunction("below"), new DevFn(0, 3));
        DeviceScope scope = Assert.Single(DeviceScope.Under(host));
        Assert.Equal((ScopeType.Endpoint, (byte)0, "06.0/00.3"), (scope.Type, scope.StartBus, string.Join('/', scope.Path)));
    }

    /// <summary>ACPICA's compiler disassembles each table without a complaint, and makes the same bytes of what it has written.</summary>
    [Fact]
    public void Iasl_reads_every_table_and_writes_the_same_again()
    {
        Assert.SkipUnless(HasIasl(), "iasl is not installed (Debian's acpica-tools)");
        var scopes = new DeviceScope[]
        {
            new(ScopeType.Endpoint, 0, 0, [new DevFn(3, 0)]),
            new(ScopeType.Endpoint, 0, 0, [new DevFn(4, 1), new DevFn(0, 2)]),
            new(ScopeType.SubHierarchy, 0, 0x40, [new DevFn(5, 0)]),
            new(ScopeType.IoApic, 2, 0xFF, [new DevFn(0, 0)]),
        };
        var full = new IntelIommuOptions { AddressWidth = 57, InterruptRemapping = true, ExtendedInterruptMode = true, DeviceIotlb = true };
        string text = Roundtrip("dmar", DmarTable.Build(full, IntelIommu.RegisterBase, scopes, all: false));
        AssertField(text, "Host Address Width", "38");
        AssertField(text, "Register Base Address", "00000000FED90000");
        Assert.Equal(["PCI Endpoint Device", "PCI Endpoint Device", "PCI Bridge Device", "IOAPIC Device"], Scopes(text));
        Assert.Contains("04,01", Fields(text, "PCI Path"));
        Assert.Contains("00,02", Fields(text, "PCI Path"));
        Assert.Contains("Root Port ATS Capability", text, StringComparison.Ordinal);

        text = Roundtrip("dmar-all", DmarTable.Build(new() { InterruptRemapping = true }, IntelIommu.RegisterBase, [], all: true));
        AssertField(text, "Host Address Width", "26");
        AssertField(text, "Flags", "07");

        text = Roundtrip("madt", MadtTable.Build(258));
        Assert.Equal(255, Fields(text, "Local Apic ID").Count());
        Assert.Equal(["000000FF", "00000100", "00000101"], Fields(text, "Processor x2Apic ID"));

        // The image as it lies in memory, table by table.
        Place(Shape(300, full));
        foreach ((string name, byte[] table) in Tables())
            Roundtrip($"placed-{name}", table);
    }

    private static MachineConfig Shape(int cpus, IntelIommuOptions intel) => new() { Vcpus = cpus, Iommu = IommuKind.Intel, Intel = intel };

    private int Place(MachineConfig config)
    {
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        byte[] image = AcpiImage.Build(BoardLayout.AcpiBase, BoardLayout.AcpiSize, config, host);
        _ram.Bus.Store(BoardLayout.AcpiBase, image);
        return image.Length;
    }

    private IEnumerable<(string Name, byte[] Table)> Tables()
    {
        byte[] list = Load(new Gpa(_ram.Bus.Load<ulong>(BoardLayout.AcpiBase + 24)));
        yield return ("XSDT", list);
        for (int at = AcpiTable.HeaderSize; at < list.Length; at += 8)
        {
            byte[] table = Load(new Gpa(BinaryPrimitives.ReadUInt64LittleEndian(list.AsSpan(at))));
            yield return (Encoding.ASCII.GetString(table, 0, 4), table);
        }
    }

    private byte[] Load(Gpa at)
    {
        byte[] table = new byte[_ram.Bus.Load<int>(at + 4)];
        _ram.Bus.Load(at, table);
        return table;
    }

    /// <summary>Disassembles, compiles, compares; returns the text.</summary>
    private string Roundtrip(string name, byte[] table)
    {
        File.WriteAllBytes(Path.Combine(_folder, $"{name}.dat"), table);
        Iasl("-d", $"{name}.dat");
        string text = File.ReadAllText(Path.Combine(_folder, $"{name}.dsl"));
        Assert.DoesNotContain("**** ", text, StringComparison.Ordinal); // how it marks what it cannot read
        Assert.DoesNotContain("should be", text, StringComparison.Ordinal); // a wrong checksum
        Iasl($"{name}.dsl");
        byte[] again = File.ReadAllBytes(Path.Combine(_folder, $"{name}.aml"));

        // The compiler puts itself into the header as the creator, which the checksum covers.
        foreach (byte[] each in (byte[][])[table, again])
        {
            each.AsSpan(28, 8).Clear();
            each[AcpiTable.ChecksumOffset] = 0;
        }

        Assert.Equal(table, again);
        return text;
    }

    private void Iasl(params string[] arguments)
    {
        var start = new ProcessStartInfo("iasl", arguments) { WorkingDirectory = _folder, RedirectStandardOutput = true, RedirectStandardError = true, UseShellExecute = false };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"iasl {string.Join(' ', arguments)}: {output}{errors.Result}");
    }

    private static bool HasIasl() => (Environment.GetEnvironmentVariable("PATH") ?? string.Empty)
        .Split(':').Any(folder => File.Exists(Path.Combine(folder, "iasl")));

    private static IEnumerable<string> Fields(string text, string name) => text.Split('\n')
        .Where(line => line.Contains($"{name} : ", StringComparison.Ordinal)).Select(line => line[(line.IndexOf(" : ", StringComparison.Ordinal) + 3)..].Trim());

    private static IEnumerable<string> Scopes(string text) => Fields(text, "Device Scope Type")
        .Select(value => value[(value.IndexOf('[', StringComparison.Ordinal) + 1)..^1]);

    private static void AssertField(string text, string name, string value) => Assert.Contains(value, Fields(text, name));

    private sealed class TestFunction : PciFunction
    {
        public TestFunction(string name) : base(name) => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }
}
