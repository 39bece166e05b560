namespace Godwit.Devices;

/// <summary>What an NVMe controller is made of. Checked as a whole by <see cref="NvmeController.Create"/>.</summary>
public sealed record NvmeOptions
{
    /// <summary>Largest value of <see cref="MaxQueues"/>: one interrupt vector each, plus one for the admin queue, fill the MSI-X page.</summary>
    public const int QueueLimit = PciIdentity.MaximumVectors - 1;

    /// <summary>Path of the backing image: a regular file or a block device.</summary>
    public required string ImagePath { get; init; }

    /// <summary>
    /// Bytes of the image. A missing file is created with this size; an existing one must have it. Null takes the size of the existing
    /// file. A multiple of <see cref="BlockSize"/>, above 0.
    /// </summary>
    public ulong? Size { get; init; }

    /// <summary>Bytes of a logical block: 512 or 4096.</summary>
    public int BlockSize { get; init; } = 4096;

    /// <summary>
    /// Serial number, 1 to 20 printable ASCII characters. Both sides of a migration must have the same one. Null derives one from the
    /// image's file name (without its folder).
    /// </summary>
    public string? Serial { get; init; }

    /// <summary>I/O queue pairs, 1 to <see cref="QueueLimit"/>.</summary>
    public int MaxQueues { get; init; } = 32;

    /// <summary>Entries of the largest queue, 2 to 65536.</summary>
    public int QueueSize { get; init; } = 1024;

    /// <summary>Bytes of the largest data transfer of one command: a power of two, 4096 to 4 MiB.</summary>
    public int MaxTransfer { get; init; } = 1 << 20;

    /// <summary>Threads that execute commands, 1 to 16. Two, so that a flush of one queue does not stop the others.</summary>
    public int Workers { get; init; } = 2;

    /// <summary>How long entering a running state waits for another server to let go of the image.</summary>
    public TimeSpan OwnershipWait { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>
    /// How long a transition that stops the device waits for the commands being executed. Below the client's reply timeout, so that the
    /// client hears why.
    /// </summary>
    public TimeSpan QuiesceWait { get; init; } = TimeSpan.FromSeconds(8);

    /// <summary>Clock for <see cref="OwnershipWait"/> and <see cref="QuiesceWait"/>.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;
}

/// <summary>An option of <see cref="NvmeOptions"/> that cannot be had: which, and why.</summary>
public sealed class NvmeOptionsException(string option, string message) : Exception($"NVMe option {option}: {message}")
{
    /// <summary>The property of <see cref="NvmeOptions"/>.</summary>
    public string Option { get; } = option;
}
