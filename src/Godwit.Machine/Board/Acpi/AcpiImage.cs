using System.Buffers.Binary;
using System.Text;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Acpi;

/// <summary>
/// All tables as they lie in guest memory: the root pointer at the beginning of the area in which a guest looks for it, then the tables,
/// then the list of them (ACPI 6.5, 5.2.5 and 5.2.8). What the firmware of a PC would leave about CPUs, PCI, power and the vIOMMU;
/// there is no AML, because no guest here needs it.
/// </summary>
internal static class AcpiImage
{
    public const int RootPointerSize = 36;
    public const string RootPointerSignature = "RSD PTR ";

    private const int RootPointerFirstPart = 20; // what revision 1 had, with a checksum of its own
    private const int Alignment = 16;

    /// <summary>The image for a board.</summary>
    /// <param name="at">Where it will be, a multiple of 16.</param>
    /// <param name="limit">Bytes there are.</param>
    /// <param name="config">The machine.</param>
    /// <param name="host">Its PCI functions, all plugged.</param>
    /// <exception cref="ArgumentException">It would take more than <paramref name="limit"/>.</exception>
    public static byte[] Build(Gpa at, ulong limit, MachineConfig config, PciHostBridge host)
    {
        var tables = new List<byte[]> { MadtTable.Build(config.Vcpus), Mcfg(host), FadtTable.Build(BoardLayout.PowerBase) };
        if (config.Iommu == IommuKind.Intel)
        {
            bool all = host.RootBuses.All(bus => !bus.BypassIommu);
            DeviceScope[] scopes = [DeviceScope.OfIoApic, .. all ? [] : DeviceScope.Under(host)];
            tables.Add(DmarTable.Build(config.Intel, IntelIommu.RegisterBase, scopes, all));
        }

        using var image = new MemoryStream();
        image.SetLength(Align(RootPointerSize));
        image.Position = image.Length;
        var list = new AcpiTable("XSDT", 1);
        foreach (byte[] table in tables)
            list.Address(Append(image, at, table));
        Gpa root = Append(image, at, list.ToBytes());
        byte[] bytes = image.ToArray();
        RootPointer(root).CopyTo(bytes, 0);
        return (ulong)bytes.Length <= limit
            ? bytes
            : throw new ArgumentException($"The ACPI tables take {bytes.Length} bytes; there are {limit} for them.");
    }

    private static byte[] RootPointer(Gpa list)
    {
        byte[] bytes = new byte[RootPointerSize];
        Encoding.ASCII.GetBytes(RootPointerSignature, bytes);
        Encoding.ASCII.GetBytes(AcpiTable.Oem, bytes.AsSpan(9));
        bytes[15] = 2; // revision
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(20), bytes.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(24), list.Value);
        bytes[8] = AcpiTable.Checksum(bytes.AsSpan(0, RootPointerFirstPart));
        bytes[32] = AcpiTable.Checksum(bytes);
        return bytes;
    }

    /// <summary>Where ECAM is (PCI Firmware 3.3, 4.1.2): segment 0, buses from 0.</summary>
    private static byte[] Mcfg(PciHostBridge host) => new AcpiTable("MCFG", 1)
        .Reserved(8).Address(host.EcamBase).Number(0, 2).Number(0, 1).Number(BoardLayout.EcamBuses - 1, 1).Reserved(4).ToBytes();

    private static Gpa Append(MemoryStream image, Gpa at, byte[] table)
    {
        Gpa place = at + (ulong)image.Position;
        image.Write(table);
        image.SetLength(Align(image.Length));
        image.Position = image.Length;
        return place;
    }

    private static long Align(long value) => (value + Alignment - 1) / Alignment * Alignment;
}
