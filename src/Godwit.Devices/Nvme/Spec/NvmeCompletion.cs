namespace Godwit.Devices;

/// <summary>A completion queue entry as two words (NVM Express Base 1.4, 4.6).</summary>
internal readonly record struct NvmeCompletion(ulong Low, ulong High)
{
    /// <summary>Bytes of an entry.</summary>
    public const int Size = 16;

    /// <summary>log2 of <see cref="Size"/>; what CC.IOCQES must say.</summary>
    public const int SizeShift = 4;

    /// <summary>Composes an entry. <paramref name="status"/> is the field above the phase tag.</summary>
    public static NvmeCompletion Create(uint result, ushort head, ushort queue, ushort command, ushort status, bool phase) =>
        new(result, head | ((ulong)queue << 16) | ((ulong)command << 32) | ((ulong)((status << 1) | (phase ? 1 : 0)) << 48));
}
