using System.Buffers;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// The files behind the source's RAM, whose descriptors come beside the frame in the same order: a handover's whole transfer of RAM.
/// </summary>
/// <param name="Blocks">Name and bytes of each block, at most <see cref="StreamFormat.MaxRamFiles"/>.</param>
public sealed record RamFilesMessage(IReadOnlyList<KeyValuePair<string, ulong>> Blocks)
{
    internal const int FixedSize = 4;

    /// <summary>Bytes of a block without its name.</summary>
    internal const int BlockSize = 12;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32((uint)Blocks.Count);
        foreach ((string name, ulong bytes) in Blocks)
        {
            writer.PutText(name);
            writer.PutUInt64(bytes);
        }
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static RamFilesMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        int count = (int)reader.ReadUInt32("count", StreamFormat.MaxRamFiles);
        var blocks = new KeyValuePair<string, ulong>[count];
        for (int i = 0; i < count; i++)
        {
            string name = reader.ReadText(RamBlock.MaxNameBytes, "name");
            blocks[i] = new(name, reader.ReadUInt64("bytes"));
        }

        reader.End();
        return new RamFilesMessage(blocks);
    }

    /// <summary>That of <paramref name="ram"/>.</summary>
    internal static RamFilesMessage Of(GuestRam ram) => new([.. ram.Blocks.Select(block => new KeyValuePair<string, ulong>(block.Name, block.Size))]);

    /// <summary>Compares it, and the files that came with it, with this machine's blocks.</summary>
    /// <exception cref="MigrationStreamException">They are not files for them; block, value and limit are named.</exception>
    internal void Check(in FrameHeader header, IReadOnlyList<FileDescriptor> files, GuestRam ram)
    {
        if (Blocks.Count != ram.Blocks.Count)
            MigrationStreamException.Throw(header, "count", (ulong)Blocks.Count, $"this machine has {ram.Blocks.Count} blocks of RAM");
        if (files.Count != Blocks.Count)
            MigrationStreamException.Throw(header, "descriptors", (ulong)files.Count, $"{Blocks.Count} must come with it");
        var seen = new HashSet<(ulong Device, ulong Inode)>();
        for (int i = 0; i < files.Count; i++)
        {
            RamBlock block = ram.Blocks[i];
            if (Blocks[i].Key != block.Name)
                MigrationStreamException.Throw(header, "name", Blocks[i].Key, $"block {i} is {block.Name} here");
            if (Blocks[i].Value != block.Size)
                MigrationStreamException.Throw(header, $"bytes of {block.Name}", Blocks[i].Value, $"the block has {block.Size} here");
            if (RamFile.FindFault(files[i], block.Size) is { } fault)
                MigrationStreamException.Throw(header, $"{fault.Field} of the file of {block.Name}", fault.Value, fault.Limit);
            FileStatus status = stat.Of(files[i]);
            if (!seen.Add((status.Device, status.Inode)))
                MigrationStreamException.Throw(header, $"file of {block.Name}", $"inode {status.Inode}", "another block has it already");
        }
    }
}
