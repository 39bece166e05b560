using System.Buffers.Binary;

namespace Godwit.Devices;

/// <summary>Layouts of the log pages (NVM Express Base 1.4, 5.14.1).</summary>
internal static class LogPages
{
    /// <summary>Bytes of one error information entry.</summary>
    public const int ErrorEntrySize = 64;

    /// <summary>Bytes of the health page.</summary>
    public const int HealthSize = 512;

    /// <summary>Bytes of the firmware slot page.</summary>
    public const int FirmwareSize = 512;

    /// <summary>Bytes of the commands supported page.</summary>
    public const int CommandsSize = 4096;

    /// <summary>SMART / health information. <paramref name="data"/> is zeroed and has <see cref="HealthSize"/> bytes.</summary>
    public static void Health(Span<byte> data, in HealthCounters counters)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(data[1..], NvmeFeatureValues.Temperature);
        data[3] = 100; // available spare, percent
        data[4] = 10;  // its threshold
        Put(data, 32, DataUnits(counters.BytesRead));
        Put(data, 48, DataUnits(counters.BytesWritten));
        Put(data, 64, counters.ReadCommands);
        Put(data, 80, counters.WriteCommands);
        Put(data, 112, 1); // power cycles
        Put(data, 160, counters.MediaErrors);
        Put(data, 176, counters.ErrorLogEntries);

        static void Put(Span<byte> data, int offset, long value) => BinaryPrimitives.WriteInt64LittleEndian(data[offset..], value);

        // Thousands of 512-byte units, rounded up.
        static long DataUnits(long bytes) => (bytes / 512_000) + (bytes % 512_000 == 0 ? 0 : 1);
    }

    /// <summary>Firmware slot information.</summary>
    public static void FirmwareSlots(Span<byte> data)
    {
        data[0] = 1; // AFI: slot 1 is active
        data.Slice(8, 8).Fill((byte)' ');
        System.Text.Encoding.ASCII.GetBytes(IdentifyData.Firmware, data[8..]);
    }

    /// <summary>Commands supported and effects: bit 0 supported, bit 1 changes logical blocks.</summary>
    public static void CommandsSupported(Span<byte> data)
    {
        ReadOnlySpan<AdminOpcode> admin =
        [
            AdminOpcode.DeleteSubmissionQueue, AdminOpcode.CreateSubmissionQueue, AdminOpcode.GetLogPage,
            AdminOpcode.DeleteCompletionQueue, AdminOpcode.CreateCompletionQueue, AdminOpcode.Identify, AdminOpcode.Abort,
            AdminOpcode.SetFeatures, AdminOpcode.GetFeatures, AdminOpcode.AsyncEventRequest,
        ];
        foreach (AdminOpcode opcode in admin)
            data[(int)opcode * 4] = 1;

        Span<byte> io = data[1024..];
        io[(int)NvmOpcode.Flush * 4] = 1;
        io[(int)NvmOpcode.Read * 4] = 1;
        io[(int)NvmOpcode.Compare * 4] = 1;
        io[(int)NvmOpcode.Write * 4] = 3;
        io[(int)NvmOpcode.WriteZeroes * 4] = 3;
        io[(int)NvmOpcode.DatasetManagement * 4] = 3;
    }
}
