using System.Numerics;
using System.Security.Cryptography;
using System.Text;

namespace Godwit.Devices;

/// <summary>The validated numbers that shape a controller; constant for its life and equal on both sides of a migration.</summary>
internal sealed record NvmeLimits
{
    /// <summary>I/O queue pairs.</summary>
    public required int MaxQueues { get; init; }

    /// <summary>Entries of the largest queue.</summary>
    public required int QueueEntries { get; init; }

    /// <summary>Bytes of the largest transfer.</summary>
    public required int MaxTransfer { get; init; }

    /// <summary>log2 of the logical block size.</summary>
    public required int BlockShift { get; init; }

    /// <summary>Bytes of the image.</summary>
    public required ulong ImageBytes { get; init; }

    /// <summary>log2 of <see cref="MaxTransfer"/>.</summary>
    public int MaxTransferShift => BitOperations.Log2((uint)MaxTransfer);

    /// <summary>Logical blocks.</summary>
    public ulong BlockCount => ImageBytes >> BlockShift;

    /// <summary>Queue slots, the admin pair included.</summary>
    public int QueueSlots => MaxQueues + 1;

    /// <summary>MSI-X vectors: one for the admin queue and one for each I/O queue pair.</summary>
    public int Vectors => MaxQueues + 1;

    /// <summary>Checks everything about <paramref name="options"/> that does not need the image.</summary>
    /// <exception cref="NvmeOptionsException">An option is out of range.</exception>
    public static void Validate(NvmeOptions options)
    {
        if (string.IsNullOrEmpty(options.ImagePath))
            throw new NvmeOptionsException(nameof(options.ImagePath), "must name a file or block device");
        if (options.BlockSize is not (512 or 4096))
            throw new NvmeOptionsException(nameof(options.BlockSize), $"{options.BlockSize} is neither 512 nor 4096");
        if (options.Size is ulong size)
            ValidateSize(nameof(options.Size), size, options.BlockSize);
        if (options.Serial is string serial && (serial.Length is < 1 or > 20 || serial.Any(c => c is < ' ' or > '~') || serial != serial.Trim()))
            throw new NvmeOptionsException(nameof(options.Serial), $"'{serial}' is not 1 to 20 printable ASCII characters without outer blanks");
        Range(nameof(options.MaxQueues), options.MaxQueues, 1, NvmeOptions.QueueLimit);
        Range(nameof(options.QueueSize), options.QueueSize, 2, 65536);
        Range(nameof(options.MaxTransfer), options.MaxTransfer, 4096, 4 << 20);
        if (!BitOperations.IsPow2(options.MaxTransfer))
            throw new NvmeOptionsException(nameof(options.MaxTransfer), $"{options.MaxTransfer} is no power of two");
        Range(nameof(options.Workers), options.Workers, 1, 16);
        Wait(nameof(options.OwnershipWait), options.OwnershipWait);
        Wait(nameof(options.QuiesceWait), options.QuiesceWait);

        static void Range(string name, int value, int minimum, int maximum)
        {
            if (value < minimum || value > maximum)
                throw new NvmeOptionsException(name, $"{value} is outside {minimum} to {maximum}");
        }

        static void Wait(string name, TimeSpan value)
        {
            if (value < TimeSpan.Zero || value > TimeSpan.FromHours(1))
                throw new NvmeOptionsException(name, $"{value} is outside 0 to 1 hour");
        }
    }

    /// <summary>Checks a size, asked for or found.</summary>
    /// <exception cref="NvmeOptionsException">It is 0, too large for a file offset, or no multiple of the block size.</exception>
    public static void ValidateSize(string option, ulong size, int blockSize)
    {
        if (size == 0 || size > long.MaxValue)
            throw new NvmeOptionsException(option, $"{size} bytes is outside 1 to {long.MaxValue}");
        if (size % (ulong)blockSize != 0)
            throw new NvmeOptionsException(option, $"{size} bytes is no multiple of the block size {blockSize}");
    }

    /// <summary>The limits for checked <paramref name="options"/> on an image of <paramref name="imageBytes"/>.</summary>
    public static NvmeLimits From(NvmeOptions options, ulong imageBytes) => new()
    {
        MaxQueues = options.MaxQueues,
        QueueEntries = options.QueueSize,
        MaxTransfer = options.MaxTransfer,
        BlockShift = BitOperations.Log2((uint)options.BlockSize),
        ImageBytes = imageBytes,
    };
}

/// <summary>Names by which a guest knows the controller and its namespace; all follow from the serial number.</summary>
internal sealed class NvmeIdentity
{
    /// <summary>Derives everything from <paramref name="serial"/>.</summary>
    public NvmeIdentity(string serial)
    {
        Serial = serial;
        byte[] hash = SHA256.HashData(Encoding.ASCII.GetBytes("godwit nvme namespace " + serial));
        Uuid = hash[..16];
        Uuid[6] = (byte)((Uuid[6] & 0x0F) | 0x80); // version 8: made in the implementer's own way (RFC 9562, 5.8)
        Uuid[8] = (byte)((Uuid[8] & 0x3F) | 0x80); // variant
    }

    /// <summary>Serial number.</summary>
    public string Serial { get; }

    /// <summary>UUID of the namespace, most significant byte first.</summary>
    public byte[] Uuid { get; }

    /// <summary>NVMe qualified name in the form for UUIDs (NVM Express Base 1.4, 7.9).</summary>
    public string SubsystemName => $"nqn.2014-08.org.nvmexpress:uuid:{new Guid(Uuid, bigEndian: true):D}";

    /// <summary>A serial number from an image's file name, the same wherever the file is mounted.</summary>
    public static string DefaultSerial(string imagePath)
    {
        byte[] hash = SHA256.HashData(Encoding.UTF8.GetBytes(Path.GetFileName(imagePath)));
        return "GW" + Convert.ToHexString(hash.AsSpan(0, 8));
    }
}
