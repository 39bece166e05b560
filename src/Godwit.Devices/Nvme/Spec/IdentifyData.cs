using System.Buffers.Binary;
using System.Text;

namespace Godwit.Devices;

/// <summary>Builders of the Identify data structures (NVM Express Base 1.4, 5.15.2). Each fills a zeroed buffer of 4096 bytes.</summary>
internal static class IdentifyData
{
    /// <summary>Bytes of every structure.</summary>
    public const int Size = 4096;

    /// <summary>The one namespace.</summary>
    public const uint NamespaceId = 1;

    /// <summary>Outstanding Async Event Requests taken (AERL + 1).</summary>
    public const int AsyncEventLimit = 4;

    /// <summary>Entries of the error log (ELPE + 1).</summary>
    public const int ErrorLogEntries = 16;

    /// <summary>Model as the guest sees it. Part of the migrated identity through the state format's version.</summary>
    public const string Model = "Godwit NVMe Controller";

    /// <summary>Firmware revision as the guest sees it.</summary>
    public const string Firmware = "1.0";

    /// <summary>Identify Controller, CNS 01h (5.15.2.2).</summary>
    public static void Controller(Span<byte> data, NvmeLimits limits, NvmeIdentity identity)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(data, PciIdentity.Vendor);
        BinaryPrimitives.WriteUInt16LittleEndian(data[2..], PciIdentity.SubsystemVendor);
        PutText(data.Slice(4, 20), identity.Serial);
        PutText(data.Slice(24, 40), Model);
        PutText(data.Slice(64, 8), Firmware);
        data[72] = 6;                                                                  // RAB: 2^6 commands
        data[77] = (byte)(limits.MaxTransferShift - 12);                               // MDTS, in units of MPSMIN
        BinaryPrimitives.WriteUInt32LittleEndian(data[80..], NvmeRegister.Version14);  // VER
        data[111] = 1;                                                                 // CNTRLTYPE: I/O controller
        data[258] = 3;                                                                 // ACL: 4 aborts
        data[259] = AsyncEventLimit - 1;                                               // AERL
        data[260] = 0b11;                                                              // FRMW: one slot, read-only
        data[261] = 0b110;                                                             // LPA: commands supported, log offsets
        data[262] = ErrorLogEntries - 1;                                               // ELPE
        BinaryPrimitives.WriteUInt16LittleEndian(data[266..], NvmeFeatureValues.WarningTemperature);  // WCTEMP
        BinaryPrimitives.WriteUInt16LittleEndian(data[268..], NvmeFeatureValues.CriticalTemperature); // CCTEMP
        data[512] = (NvmeCommand.SizeShift << 4) | NvmeCommand.SizeShift;              // SQES
        data[513] = (NvmeCompletion.SizeShift << 4) | NvmeCompletion.SizeShift;        // CQES
        BinaryPrimitives.WriteUInt32LittleEndian(data[516..], 1);                      // NN
        BinaryPrimitives.WriteUInt16LittleEndian(data[520..], 0b1101);                 // ONCS: compare, DSM, write zeroes
        data[525] = 0b111;                                                             // VWC: present, flush takes every NSID
        PutText(data.Slice(768, 256), identity.SubsystemName, padding: 0);             // SUBNQN
        BinaryPrimitives.WriteUInt16LittleEndian(data[2048..], 2500);                  // PSD0: 25 W
    }

    /// <summary>Identify Namespace, CNS 00h (5.15.2.1).</summary>
    public static void Namespace(Span<byte> data, NvmeLimits limits)
    {
        ulong blocks = limits.BlockCount;
        BinaryPrimitives.WriteUInt64LittleEndian(data, blocks);          // NSZE
        BinaryPrimitives.WriteUInt64LittleEndian(data[8..], blocks);     // NCAP
        BinaryPrimitives.WriteUInt64LittleEndian(data[16..], blocks);    // NUSE
        data[24] = 0b1_0000;                                             // NSFEAT: OPTPERF, the fields at 64 to 73 count
        data[33] = 0b0_1001;                                             // DLFEAT: deallocated reads 0; write zeroes takes DEAC
        ushort blocksPerPage = (ushort)((4096 >> limits.BlockShift) - 1); // 0's based
        BinaryPrimitives.WriteUInt16LittleEndian(data[64..], blocksPerPage); // NPWG
        BinaryPrimitives.WriteUInt16LittleEndian(data[66..], blocksPerPage); // NPWA
        BinaryPrimitives.WriteUInt16LittleEndian(data[68..], blocksPerPage); // NPDG
        BinaryPrimitives.WriteUInt16LittleEndian(data[70..], blocksPerPage); // NPDA
        BinaryPrimitives.WriteUInt64LittleEndian(data[48..], limits.ImageBytes); // NVMCAP
        data[128 + 2] = (byte)limits.BlockShift;                         // LBAF0: LBADS, no metadata
    }

    /// <summary>Namespace Identification Descriptor list, CNS 03h (5.15.2.4).</summary>
    public static void NamespaceDescriptors(Span<byte> data, NvmeIdentity identity)
    {
        data[0] = 3;  // NIDT: UUID
        data[1] = 16; // NIDL
        identity.Uuid.CopyTo(data[4..]);
    }

    /// <summary>Text of Identify: ASCII, left-justified, filled with <paramref name="padding"/>.</summary>
    private static void PutText(Span<byte> field, string text, byte padding = (byte)' ')
    {
        field.Fill(padding);
        Encoding.ASCII.GetBytes(text, field);
    }
}
